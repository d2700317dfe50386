"""docs/data.md says of each set what its builder's card says."""

from __future__ import annotations

from pathlib import Path

import pytest

from spips_jax.agreement import OPINIONS
from spips_jax.data.sets import BUILDERS
from spips_jax.kinds import PROTOCOLS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"

CARDS = {
    name: builder.CARD for name, builder in BUILDERS.items() if hasattr(builder, "CARD")
}


@pytest.mark.parametrize("name", CARDS)
def test_the_table_follows_the_card(name: str) -> None:
    card = CARDS[name]
    examples = sum(count for count, _ in card.counts.values())
    references = sum(count for _, count in card.counts.values())
    low, high = card.scale
    row = (
        f"| [`{name}`]({card.url}) | {card.kind.name} |"
        f" {f'{examples:,}' if examples else '?'} |"
        f" {f'{references:,}' if examples else '?'} |"
        f" `{card.opinion}` {low:g} to {high:g} | {PROTOCOLS[card.comparable]} |"
        f" {', '.join(f'`{extra}`' for extra in card.extras)} | {card.licence} |"
    )
    text = DOCS.read_text(encoding="utf-8")
    assert row in text.splitlines(), row
    assert card.layout in text


def test_every_direction_is_explained() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name, opinion in OPINIONS.items():
        assert f"| `{name}` | {opinion.meaning} |" in text


@pytest.mark.parametrize("name", CARDS)
def test_cards_are_complete(name: str) -> None:
    card = CARDS[name]
    assert card.citation.startswith("@")
    assert card.url.startswith("https://")
    assert card.licence
    assert card.opinion in OPINIONS
    assert card.scale[0] < card.scale[1]


@pytest.mark.parametrize("name", CARDS)
def test_tournaments_compare_within_a_reference(name: str) -> None:
    """By their papers: TID's Swiss tournaments, PIPAL's Elo, PieAPP's pairs."""
    tournaments = ("tid2013", "tid2008", "pipal", "pieapp_scores")
    expected = "reference" if name in tournaments else "set"
    assert CARDS[name].comparable == expected
