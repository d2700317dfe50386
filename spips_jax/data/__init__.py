"""IQA datasets: built once as TFDS sets in ArrayRecord files, read by Grain.

    spips data prepare tid2013 --manual_dir ~/downloads
    dataset = data.load("tid2013")
    training, held_out = dataset.fold("1/5")
    batches = data.train_batches([data.Source(dataset=training)], batch_size=32, seed=0)

TensorFlow is never imported. Needs the extra [data].
"""

try:
    from spips_jax.data.builder import Card, DataError
    from spips_jax.data.dataset import Dataset, open_folder
    from spips_jax.data.loader import Batches, Source, eval_batches, train_batches
    from spips_jax.data.sets import BUILDERS, load, prepare
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is not installed: install spips-jax with the extra [data]",
        name=error.name,
    ) from error

__all__ = [
    "BUILDERS",
    "Batches",
    "Card",
    "DataError",
    "Dataset",
    "Source",
    "eval_batches",
    "load",
    "open_folder",
    "prepare",
    "train_batches",
]
