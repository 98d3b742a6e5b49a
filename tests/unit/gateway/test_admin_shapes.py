"""What /admin shows of what is declared."""

from __future__ import annotations

from logos.domain.catalogue import Catalogue
from logos.domain.directory import ProviderAccess
from logos.domain.nouns import Privacy, Provider
from logos.gateway.admin_shapes import providers_shown


def test_a_provider_is_shown_without_its_key_and_without_a_password_in_its_address() -> None:
    catalogue = Catalogue(providers=(Provider(1, "house", "openai", Privacy.LOCAL),))
    access = {1: ProviderAccess(1, "https://team:hunter22@llm.example:8443/v1", api_key="sk-very-secret-key")}
    (shown,) = providers_shown(catalogue, access)
    assert shown.base_url == "https://team:[redacted]@llm.example:8443/v1"
    assert shown.has_api_key
    assert "secret" not in shown.model_dump_json()
