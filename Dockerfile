# spips-jax in a container.
#
#   docker build -t spips-jax .                              for CPUs
#   docker build -t spips-jax --build-arg JAX=jax[cuda13] .  for NVIDIA GPUs
#   docker run --rm -v "$PWD:/images" spips-jax score photo.png photo.jpg
#
# With a GPU: docker run --gpus all. Its driver must suit the CUDA version.
FROM python:3.12-slim

ARG JAX=jax
ENV SPIPS_HOME=/var/lib/spips PYTHONUNBUFFERED=1

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY spips_jax spips_jax
COPY weights_convert weights_convert
COPY configs configs
RUN pip install --no-cache-dir "$JAX" '.[cli,formats,convert]'

# Weights and compiled programs, for whichever user runs it; mount a volume to keep them.
RUN mkdir -p "$SPIPS_HOME" && chmod 1777 "$SPIPS_HOME"

WORKDIR /images
ENTRYPOINT ["spips"]
CMD ["--help"]
