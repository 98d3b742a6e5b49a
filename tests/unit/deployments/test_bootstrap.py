"""What whoever starts a platform is told of the keys that it made; the rest of the start needs Ray."""

from __future__ import annotations

from deployments.bootstrap import Begun, made_keys, shown_once

ROOT = "lg-0a1b2c-made-for-root"
CI = "lg-3d4e5f-made-for-ci"


def test_the_root_key_and_keys_of_the_config_file_are_shown_where_they_were_made() -> None:
    assert shown_once(made_keys({"root": ROOT, "ci": CI}, preset=None)) == [
        f"Root key, shown this once: {ROOT}",
        f"Key ci, shown this once: {CI}",
    ]


def test_a_root_key_that_the_operator_has_chosen_is_not_shown() -> None:
    assert shown_once(made_keys({"root": ROOT, "ci": CI}, preset=ROOT)) == [f"Key ci, shown this once: {CI}"]


def test_a_later_start_has_nothing_to_show() -> None:
    assert shown_once(made_keys({}, preset=None)) == shown_once(made_keys({}, preset=ROOT)) == []


def test_the_root_key_is_in_no_repr() -> None:
    assert ROOT not in repr(Begun(ROOT, {}, ()))
