from logos.workload.strain import Strain


def strained(*used: float) -> Strain:
    """After seconds in each of which so much CPU time was used."""
    strain = Strain(5.0, 100.0)
    for second in range(1, len(used) + 1):
        strain.look(5.0 + sum(used[:second]), 100.0 + second)
    return strain


def test_a_client_that_keeps_up_has_nothing_to_say() -> None:
    strain = strained(0.0, 0.5, 0.89)
    assert (strain.busy_s, strain.note) == (0.0, None)


def test_a_client_that_uses_up_a_core_says_for_how_long() -> None:
    strain = strained(0.3, 1.0, 0.95, 0.1)
    assert strain.busy_s == 2.0
    assert strain.note is not None
    assert strain.note.startswith("this client used a whole core for 2 s")
