"""The sentence-transformers adapter, with a package of that shape, since the real one is not installed by default."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from logos.domain.errors import InvalidDeclaration
from logos.embedding import sentence
from logos.embedding.sentence import SentenceTransformersEmbedding, check_installed

PACKAGE = """
class SentenceTransformer:
    def __init__(self, name):
        if name == "absent":
            raise OSError("a long story about hubs")
        self.name = name

    def encode(self, texts, show_progress_bar):
        assert show_progress_bar is False
        return [[len(text), 1.0] for text in texts]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "shaped_like_it.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(sentence, "PACKAGE", "shaped_like_it")
    return "shaped_like_it"


@pytest.mark.usefixtures("package")
async def test_texts_are_encoded_in_order_under_the_name_of_the_model() -> None:
    made = SentenceTransformersEmbedding("some/model")
    assert made.name == "sentence-transformers/some/model"
    assert (await made.embed(["a", "bbb"])).tolist() == [[1, 1], [3, 1]]
    await made.close()


@pytest.mark.usefixtures("package")
def test_a_model_that_cannot_be_loaded_is_one_line() -> None:
    with pytest.raises(InvalidDeclaration) as caught:
        SentenceTransformersEmbedding("absent")
    assert "absent could not be loaded" in caught.value.message
    assert "long story" not in caught.value.message
    assert "\n" not in caught.value.message


def test_where_the_package_is_not_installed_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence, "PACKAGE", "nothing_of_this_name")
    with pytest.raises(InvalidDeclaration) as caught:
        check_installed()
    assert "pip install sentence-transformers" in caught.value.message
    assert "\n" not in caught.value.message
