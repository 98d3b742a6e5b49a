"""Which policy holds for a request: the one it asks for, else its key's default, else the built-in `default`.

Policy strings in place of a model name are applied on top of the result, by `policy_string`.
"""

from __future__ import annotations

import difflib
import re

from logos.domain.catalogue import Catalogue
from logos.domain.errors import UnknownPolicy
from logos.domain.nouns import Key, Policy

# Privacy loosest, soft thresholds 0, cost -1024, priority mid (scheduling.md section 1). No row has the id 0.
DEFAULT_POLICY = Policy(id=0, name="default")
_ID = re.compile(r"[0-9]{1,9}", re.ASCII)


def effective_policy(catalogue: Catalogue, key: Key, asked: str | None = None) -> Policy:
    """`asked` is a name or an id (a name wins over an id that looks the same). A declared policy named `default`
    replaces the built-in one.

    Raises UnknownPolicy if `asked` is not known, naming close ones; also if the key's own default is gone, as falling
    back to the loosest policy would send its prompts where its owner forbade.
    """
    if asked is not None and asked.strip():
        return _named(catalogue, asked.strip())
    if key.policy_id is not None:
        found = catalogue.policy.get(key.policy_id)
        if found is None:
            raise UnknownPolicy(
                "The default policy of this key does not exist any more: name a policy in the header "
                "'x-logos-policy', or ask an administrator to give the key another one."
            )
        return found
    return catalogue.policy_named.get(DEFAULT_POLICY.name, DEFAULT_POLICY)


def _named(catalogue: Catalogue, asked: str) -> Policy:
    found = catalogue.policy_named.get(asked)
    if found is None and _ID.fullmatch(asked):
        found = catalogue.policy.get(int(asked))
    if found is None and asked == DEFAULT_POLICY.name:
        found = DEFAULT_POLICY
    if found is None:
        raise UnknownPolicy(_unknown(catalogue, asked))
    return found


def _unknown(catalogue: Catalogue, asked: str) -> str:
    known = sorted({*catalogue.policy_named, DEFAULT_POLICY.name})
    close = difflib.get_close_matches(asked[:100], known, n=3, cutoff=0.5)
    if close:
        cure = f"did you mean {' or '.join(close)}?"
    else:
        cure = f"known are {', '.join(known[:20])}{' and more' if len(known) > 20 else ''}."
    return f"There is no policy '{asked[:100]}': {cure}"
