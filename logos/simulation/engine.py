"""The engine model: what one vLLM engine would do with the sequences it is given, step by step.

The rules are those of the project's scheduling notes, section 5. Each step costs

    step_base_s + step_per_sequence_s * batch + prefill_per_token_s * prefill_tokens        seconds,

decodes one token per running sequence, admits waiting prompts in chunks while the KV cache has room, and preempts
the newest sequence (which computes everything again later) when it has not.

A driver alternates `plan()`, which admits and says what the next step takes, and `advance()`, which ends it:

- in real time: plan, wait `step_s`, advance(1), hand out the tokens;
- in simulated time: plan, come back after `step_s * steps_ahead`, advance(steps_ahead). Whatever is submitted or
  aborted in between cuts this leap at the next boundary of a step: advance by fewer steps, then plan again.

Time is never read here, nothing is drawn at random, and nothing may be shared with `logos.prediction`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from logos.simulation.prefix_cache import PrefixCache

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class EnginePace:
    """How fast one engine is and how much fits into it. The defaults are those measured for a 7B model."""

    step_base_s: float = 0.027
    step_per_sequence_s: float = 0.0015
    prefill_per_token_s: float = 0.0009
    max_sequences: int = 48
    kv_cache_tokens: int = 65_536
    prefill_chunk_tokens: int = 2_048
    slowdown: float = 1.0  # a step is this many times as long while another engine on the same GPUs is busy
    prefix_block_tokens: int = 16

    def __post_init__(self) -> None:
        """Raises ValueError for a pace that no engine can have."""
        if min(self.step_base_s, self.step_per_sequence_s, self.prefill_per_token_s) < 0:
            raise ValueError("the times of a step must not be negative")
        sizes = (self.max_sequences, self.kv_cache_tokens, self.prefill_chunk_tokens, self.prefix_block_tokens)
        if min(sizes) < 1:
            raise ValueError("sequences, KV cache, prefill chunk and prefix block must be at least 1")
        if self.slowdown < 1.0:
            raise ValueError("the slowdown by a busy neighbour must be at least 1.0")

    def step_s(self, batch: int, prefill_tokens: int, *, contended: bool = False) -> float:
        """Seconds of one step with `batch` sequences in it, `prefill_tokens` of whose tokens are prompt."""
        step_s = self.step_base_s + self.step_per_sequence_s * batch + self.prefill_per_token_s * prefill_tokens
        return step_s * self.slowdown if contended else step_s


@dataclass(frozen=True, slots=True)
class TransitionTimes:
    """What the changes of state of one engine take, in seconds."""

    load_s: float = 2.0
    wake_s: float = 0.5
    sleep_s: float = 1.0
    stop_s: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for a negative time."""
        if min(self.load_s, self.wake_s, self.sleep_s, self.stop_s) < 0:
            raise ValueError("transition times must not be negative")

    def times(self, factor: float) -> TransitionTimes:
        """Each of them, `factor` times as long."""
        return TransitionTimes(self.load_s * factor, self.wake_s * factor, self.sleep_s * factor, self.stop_s * factor)


class Plan(NamedTuple, Generic[K]):
    """What the engine is about to do: `steps_ahead` equal steps of `step_s` seconds each, if nothing comes up."""

    step_s: float
    steps_ahead: int
    batch: int
    prefill_tokens: int
    admitted: tuple[K, ...]
    preempted: tuple[K, ...]


class Step(NamedTuple, Generic[K]):
    """What came out of `steps` steps, known at their end."""

    steps: int
    tokens: tuple[tuple[K, int], ...]  # (sequence, new tokens); empty if the driver did not ask for it
    first: tuple[K, ...]  # those of them whose very first token this was
    finished: tuple[K, ...]


class _Sequence(Generic[K]):
    """One sequence inside the model. While decoding, `made` counts the tokens made before it joined the batch."""

    __slots__ = ("cached", "computed", "end", "joined", "key", "kv", "made", "order", "output", "prefix", "prompt")

    def __init__(self, key: K, order: int, prompt: int, output: int, prefix: Sequence[Hashable]) -> None:
        self.key = key
        self.order = order
        self.prompt = prompt
        self.output = output
        self.prefix = prefix
        self.made = 0
        self.computed = 0  # prompt tokens (and tokens made before a preemption) whose KV entries exist
        self.cached = 0  # of those, the ones that the prefix cache gave at the first admission
        self.kv = 0  # reserved KV tokens, as of `joined` while decoding
        self.joined = -1  # the engine's step count when it began to decode, -1 while it does not
        self.end = 0  # the engine's step count at which it will have made its last token

    @property
    def to_compute(self) -> int:
        return self.prompt + self.made - self.computed


class EngineModel(Generic[K]):
    """One engine. Sequences are named by any hashable key of the driver's own.

    Every submitted sequence leaves exactly once: in `Step.finished`, or by `abort`. `contended` is set by the driver
    while another engine on the same GPUs is busy.
    """

    def __init__(self, pace: EnginePace) -> None:
        self.pace = pace
        self.contended = False
        self.preemptions = 0  # only grows
        self.prefix_cache = PrefixCache(
            blocks_max=max(1, pace.kv_cache_tokens // pace.prefix_block_tokens),
            block_tokens=pace.prefix_block_tokens,
        )
        self._waiting: OrderedDict[K, _Sequence[K]] = OrderedDict()
        self._prefilling: dict[K, _Sequence[K]] = {}
        self._decoding: dict[K, _Sequence[K]] = {}
        self._ends: list[tuple[int, int, _Sequence[K]]] = []  # heap of (end, order, sequence), stale ones included
        self._chunks: list[tuple[_Sequence[K], int]] = []  # what the planned step prefills
        self._planned_steps = 0
        self._steps = 0
        self._submitted = 0
        self._kv_tokens = 0

    # --- what an observer may see ---------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Sequences in the batch, prefilling ones included."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        """Sequences that hold no KV memory: not admitted yet, or preempted."""
        return len(self._waiting)

    @property
    def kv_tokens(self) -> int:
        """KV cache in use, in tokens; never above `pace.kv_cache_tokens`."""
        return self._kv_tokens

    @property
    def kv_usage(self) -> float:
        """KV cache in use, 0 to 1."""
        return self._kv_tokens / self.pace.kv_cache_tokens

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._prefilling or self._decoding)

    def __contains__(self, key: object) -> bool:
        return key in self._decoding or key in self._prefilling or key in self._waiting

    def keys(self) -> list[K]:
        """Every sequence in the engine: decoding, prefilling, then waiting."""
        return [*self._decoding, *self._prefilling, *self._waiting]

    def produced(self, key: K) -> int:
        """Tokens made so far for a sequence that is in the engine. Raises KeyError for any other."""
        sequence = self._decoding.get(key)
        if sequence is not None:
            return sequence.made + self._steps - sequence.joined
        return (self._prefilling.get(key) or self._waiting[key]).made

    def cached_tokens(self, key: K) -> int:
        """Prompt tokens that the prefix cache gave to a sequence in the engine. Raises KeyError for any other."""
        return (self._decoding.get(key) or self._prefilling.get(key) or self._waiting[key]).cached

    # --- what a driver may do -------------------------------------------------------------------------------

    def submit(self, key: K, prompt_tokens: int, output_tokens: int, prefix: Sequence[Hashable] = ()) -> None:
        """Queue a sequence that will make exactly `output_tokens` tokens, the last of which ends it.

        `prefix` names the leading blocks of `pace.prefix_block_tokens` tokens of the prompt, for the prefix cache.
        Raises ValueError for a key that is already here, and for a sequence that could never fit.
        """
        if key in self:
            raise ValueError(f"sequence {key!r} is already in the engine")
        if prompt_tokens < 1 or output_tokens < 1:
            raise ValueError("a sequence has at least one prompt token and one output token")
        if prompt_tokens + output_tokens > self.pace.kv_cache_tokens:
            raise ValueError(
                f"{prompt_tokens} + {output_tokens} tokens can never fit into a KV cache of {self.pace.kv_cache_tokens}"
            )
        self._waiting[key] = _Sequence(key, self._submitted, prompt_tokens, output_tokens, prefix)
        self._submitted += 1

    def abort(self, key: K) -> bool:
        """Take a sequence out at once, its KV memory included; False if it is not here (any more)."""
        if self._waiting.pop(key, None) is not None:
            return True
        sequence = self._prefilling.pop(key, None) or self._decoding.pop(key, None)
        if sequence is None:
            return False
        self._release(sequence)
        return True

    def preempt_all(self) -> None:
        """Send everything back to the queue, in order, to be computed again: the KV cache is gone (sleep)."""
        while self.running:
            self._preempt_newest()
        self.prefix_cache.clear()

    def plan(self) -> Plan[K] | None:
        """Preempt if the next step would not fit, admit if there is room; None when there is nothing to do."""
        preempted = self._make_room()
        self._chunks = []
        budget = self.pace.prefill_chunk_tokens
        if self._prefilling:
            budget = self._continue_prefills(budget)
        # As in vLLM, a step that had to preempt admits nobody.
        admitted = self._admit(budget) if self._waiting and not preempted else ()
        batch = len(self._decoding) + len(self._chunks)
        if batch == 0:
            return None
        prefill_tokens = sum([tokens for _, tokens in self._chunks])
        self._planned_steps = 1 if self._chunks or preempted else self._steps_until_change()
        step_s = self.pace.step_s(batch, prefill_tokens, contended=self.contended)
        return Plan(step_s, self._planned_steps, batch, prefill_tokens, admitted, preempted)

    def advance(self, steps: int = 1, *, list_tokens: bool = True) -> Step[K]:
        """End the first `steps` of the planned steps. `list_tokens=False` spares the list of who got how many.

        Raises ValueError for more steps than were planned.
        """
        if not 1 <= steps <= self._planned_steps:
            raise ValueError(f"{steps} steps cannot end: {self._planned_steps} were planned")
        self._planned_steps = 0
        tokens: list[tuple[K, int]] = [(key, steps) for key in self._decoding] if list_tokens else []
        self._steps += steps
        self._kv_tokens += steps * len(self._decoding)
        finished = self._end_decodes()
        first: list[K] = []
        for sequence, computed in self._chunks:
            if self._prefilling.get(sequence.key) is not sequence:
                continue  # aborted while the step ran
            sequence.computed += computed
            if sequence.to_compute == 0:
                if sequence.made == 0:
                    first.append(sequence.key)
                if list_tokens:
                    tokens.append((sequence.key, 1))
                if self._begin_decode(sequence):
                    finished.append(sequence.key)
        self._chunks = []
        return Step(steps, tuple(tokens), tuple(first), tuple(finished))

    # --- the rules ------------------------------------------------------------------------------------------

    def _make_room(self) -> tuple[K, ...]:
        """Preempt, newest first, until every decoding sequence has room for one more token."""
        preempted: list[K] = []
        # A lone sequence always fits: `submit` saw to that.
        while self._kv_tokens + len(self._decoding) > self.pace.kv_cache_tokens and self.running > 1:
            preempted.append(self._preempt_newest())
        return tuple(preempted)

    def _preempt_newest(self) -> K:
        """Take the last admitted sequence out of the batch, to the head of the queue."""
        batch = self._prefilling or self._decoding
        sequence = batch.pop(next(reversed(batch)))
        self._release(sequence)
        sequence.computed = 0
        self._waiting[sequence.key] = sequence
        self._waiting.move_to_end(sequence.key, last=False)
        self.preemptions += 1
        return sequence.key

    def _release(self, sequence: _Sequence[K]) -> None:
        """Free the KV memory of a sequence that has just left the batch, and settle what it has made."""
        if sequence.joined >= 0:
            decoded = self._steps - sequence.joined
            sequence.made += decoded
            sequence.kv += decoded
            sequence.joined = -1
        self._kv_tokens -= sequence.kv
        sequence.kv = 0
        if not self._decoding:
            self._ends.clear()  # only stale entries are left

    def _continue_prefills(self, budget: int) -> int:
        """Give the prompts that are partly computed their next chunk; returns the budget that is left."""
        for sequence in self._prefilling.values():
            if budget == 0:
                break
            tokens = min(budget, sequence.to_compute)
            self._chunks.append((sequence, tokens))
            budget -= tokens
        return budget

    def _admit(self, budget: int) -> tuple[K, ...]:
        """Move waiting sequences into the batch, first come first served, while tokens, seats and memory last."""
        admitted: list[K] = []
        while self._waiting and budget > 0 and self.running < self.pace.max_sequences:
            sequence = next(iter(self._waiting.values()))
            known = sequence.prompt + sequence.made
            # Its own KV entries, the one of its next token, and this step's growth of the others.
            if self._kv_tokens + known + 1 + len(self._decoding) > self.pace.kv_cache_tokens:
                break
            del self._waiting[sequence.key]
            self._prefilling[sequence.key] = sequence
            sequence.kv = known + 1
            self._kv_tokens += sequence.kv
            self._use_prefix_cache(sequence)
            tokens = min(budget, sequence.to_compute)
            self._chunks.append((sequence, tokens))
            budget -= tokens
            admitted.append(sequence.key)
        return tuple(admitted)

    def _use_prefix_cache(self, sequence: _Sequence[K]) -> None:
        if sequence.prefix:
            # At least one token is computed, or there would be no logits to sample from.
            held = min(self.prefix_cache.match(sequence.prefix), sequence.prompt - 1)
            sequence.computed = held
            if sequence.made == 0:
                sequence.cached = held

    def _begin_decode(self, sequence: _Sequence[K]) -> bool:
        """A prompt is computed, and its last step made a token; True if that was the last one."""
        del self._prefilling[sequence.key]
        if sequence.prefix:
            self.prefix_cache.add(sequence.prefix)
        sequence.made += 1
        if sequence.made == sequence.output:
            self._release(sequence)
            return True
        sequence.joined = self._steps
        sequence.end = self._steps + sequence.output - sequence.made
        self._decoding[sequence.key] = sequence
        heapq.heappush(self._ends, (sequence.end, sequence.order, sequence))
        return False

    def _end_decodes(self) -> list[K]:
        """Take out the sequences that have made their last token by now."""
        finished: list[K] = []
        while self._ends and self._ends[0][0] <= self._steps:
            end, _, sequence = heapq.heappop(self._ends)
            if self._is_due(sequence, end):
                del self._decoding[sequence.key]
                finished.append(sequence.key)
                self._release(sequence)
        return finished

    def _is_due(self, sequence: _Sequence[K], end: int) -> bool:
        """Whether an entry of the heap still holds: a sequence that was preempted and came back ends later."""
        return self._decoding.get(sequence.key) is sequence and sequence.end == end

    def _next_to_end(self) -> _Sequence[K] | None:
        """The decoding sequence that ends first; drops stale entries (aborted, preempted) from the heap's top."""
        while self._ends:
            end, _, sequence = self._ends[0]
            if self._is_due(sequence, end):
                return sequence
            heapq.heappop(self._ends)
        return None

    def _steps_until_change(self) -> int:
        """Equal steps until a sequence ends or memory runs out. Who waits now cannot be admitted before that."""
        sequence = self._next_to_end()
        assert sequence is not None
        until_memory = (self.pace.kv_cache_tokens - self._kv_tokens) // len(self._decoding)
        return max(1, min(sequence.end - self._steps, until_memory))
