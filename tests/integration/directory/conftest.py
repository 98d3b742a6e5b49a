from collections.abc import Iterator

import pytest

from logos.actors.administration import Administration


@pytest.fixture
def administration(database_url: str) -> Iterator[Administration]:
    made = Administration(database_url)
    yield made
    made.close()
