"""Prompts -> texts: any transformers language model, causal or sequence-to-sequence, or an OpenAI-compatible server.

One seed a text. The local writer draws the numbers of a text from its own generator, so they do not depend on which
other prompts share the batch. (The last bits of the logits may; a text then differs only when a draw falls within that
rounding error of the border between two tokens.)
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import transformers
from torch import Tensor

from reverie.errors import InputError, MissingExtra, ModelError, StoreError
from reverie.models.batching import AdaptiveBatcher
from reverie.models.kinds import check_writer, language_class
from reverie.models.names import IN_FLIGHT, Located, locate
from reverie.models.pretrained import load_config, load_model, load_tokenizer, usable

PICTURE = re.compile(r"data:image/\w+;base64,[A-Za-z0-9+/=]*")  # what is not kept of a request: it can be large


class Writer(Protocol):
    """Texts from prompts. One that has ``chats`` set follows instructions; the others go on with a text. One that has ``num_read`` and
    ``num_written`` counts the tokens of prompts and texts.
    """

    revision: str

    def write(
        self, prompts: Sequence[str], seeds: Sequence[int], max_tokens: int, temperature: float, top_p: float
    ) -> list[str]:
        """One text a prompt, the prompt not repeated.

        Args:
            seeds: one a prompt; the same prompt and seed give the same text (a server may keep this promise or not).
            max_tokens: where a text is cut at the latest.
            temperature: divides the logits; 0 takes the likeliest token.
            top_p: in (0, 1]; sample from the likeliest tokens that together hold this probability.
        """
        ...


def open_writer(
    name: str,
    device: str = "cpu",
    *,
    dtype: str = "float32",
    cache: Path | None = None,
    batch_size: int = 64,
    parallel: int = IN_FLIGHT,
) -> Writer:
    """Open a language model by name (see models/names.py); its configuration says whether it has an encoder of its own.

    Args:
        dtype: float32, bfloat16 or float16, of a local model's weights and computation.
        cache: sqlite file in which a server's answers are kept; a request that was answered once is not sent again.
        batch_size: prompts at once, local models; halves by itself when memory is short.
        parallel: requests at once, servers; fewer while one says that they are too many.
    Raises: ModelError, UnknownName, MissingExtra.
    """
    place = locate(name)
    if place.kind == "openai":
        return ServerWriter(place, cache, parallel)
    check_writer(name)
    config = load_config(place)
    loader = language_class(config)
    kind: type[LocalWriter] = Seq2SeqWriter if loader is transformers.AutoModelForSeq2SeqLM else CausalWriter
    if type(config) not in loader._model_mapping:
        raise ModelError(f"cannot load {place.name} as a language model: it is a model of type {config.model_type!r}")
    net = load_model(loader, place, device, getattr(torch, dtype))
    with usable(name, "write"):
        return kind(net, load_tokenizer(place), str(locate(name)), device, batch_size)


Following = Callable[[Tensor | None], Tensor]
"""Tokens just chosen, (B,), or None before the first -> logits of the next ones, (B, V)."""


class LocalWriter(ABC):
    """A language model in this process; its two kinds differ in how a prompt is read and how a text is gone on with."""

    chats = False

    def __init__(self, net: Any, tokenizer: Any, revision: str, device: str, batch_size: int = 64) -> None:
        self.net, self.revision, self.device = net, revision, device
        self.num_read = self.num_written = 0  # tokens so far
        self._tokenizer = tokenizer
        self._in_batches = AdaptiveBatcher(batch_size)
        ends = (
            net.generation_config.eos_token_id
            if net.generation_config.eos_token_id is not None
            else tokenizer.eos_token_id
        )
        self._ends = torch.tensor([] if ends is None else ends, device=device, dtype=torch.long).reshape(-1)
        self._pad = (
            tokenizer.pad_token_id
            if tokenizer.pad_token_id is not None
            else int(self._ends[0])
            if len(self._ends)
            else 0
        )
        self._limit: int | None = getattr(net.config.get_text_config(), "max_position_embeddings", None)

    def write(
        self, prompts: Sequence[str], seeds: Sequence[int], max_tokens: int, temperature: float, top_p: float
    ) -> list[str]:
        """See ``Writer``. A text also ends where the model's context does. Raises InputError for a prompt that leaves no room."""
        with usable(self.revision, "write"):
            return self._write(prompts, seeds, max_tokens, partial(self._sample, temperature=temperature, top_p=top_p))

    def _write(
        self, prompts: Sequence[str], seeds: Sequence[int], max_tokens: int, sample: Callable[..., list[list[int]]]
    ) -> list[str]:
        asked = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            ids = self._tokens(prompt)
            room = min(max_tokens, self._room(ids, self._limit)) if self._limit else max_tokens
            if room < 1:
                raise InputError(
                    f"a prompt of {len(ids)} tokens leaves no room for a text: {self.revision} takes {self._limit} tokens in all"
                )
            asked.append((ids, seed, room))
        made = [ids for batch in self._in_batches(sample, asked) for ids in batch]
        self.num_read += sum(len(ids) for ids, _, _ in asked)
        self.num_written += sum(map(len, made))
        return [self._tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in made]

    @torch.inference_mode()
    def _sample(self, asked: Sequence[tuple[list[int], int, int]], temperature: float, top_p: float) -> list[list[int]]:
        following = self._begin([ids for ids, _, _ in asked])
        room = torch.tensor([room for _, _, room in asked], device=self.device)
        steps = int(room.max())
        draws = torch.stack([uniforms(seed, steps) for _, seed, _ in asked]).to(self.device)
        chosen: Tensor | None = None
        ended, made = torch.zeros(len(asked), dtype=torch.bool, device=self.device), []
        for step in range(steps):
            chosen = draw(following(chosen).float(), draws[:, step], temperature, top_p)
            ended |= torch.isin(chosen, self._ends) | (step >= room)
            chosen = chosen.masked_fill(ended, self._pad)
            made.append(torch.where(ended, -1, chosen))
            if ended.all():
                break
        return [[token for token in row if token >= 0] for row in torch.stack(made, dim=1).tolist()]

    def _padded(self, prompts: Sequence[list[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Token ids and mask, (B, L), with the padding before or after the prompts."""
        width = max(map(len, prompts))
        rows, masks = [], []
        for ids in prompts:
            fill, zeros, ones = [self._pad] * (width - len(ids)), [0] * (width - len(ids)), [1] * len(ids)
            rows.append(fill + ids if left else ids + fill)
            masks.append(zeros + ones if left else ones + zeros)
        return torch.tensor(rows, device=self.device), torch.tensor(masks, device=self.device)

    @abstractmethod
    def _tokens(self, prompt: str) -> list[int]: ...

    @abstractmethod
    def _room(self, ids: list[int], limit: int) -> int:
        """How many tokens a model of so many places can write after this prompt; below 1 if it cannot even read it."""

    @abstractmethod
    def _begin(self, prompts: Sequence[list[int]]) -> Following:
        """Read the prompts; what is returned is called once a token."""


class CausalWriter(LocalWriter):
    """A causal language model: a text goes on where its prompt ends, and both share the context."""

    def __init__(self, net: Any, tokenizer: Any, revision: str, device: str, batch_size: int = 64) -> None:
        super().__init__(net, tokenizer, revision, device, batch_size)
        accepted = inspect.signature(net.forward).parameters
        self._numbers_places = "position_ids" in accepted  # the others count places themselves, from the mask
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.chats = bool(tokenizer.chat_template)

    def _tokens(self, prompt: str) -> list[int]:
        if self._tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            # Templates that know no "thinking" ignore the word; the others would spend all tokens on it.
            return list(
                self._tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=False
                )
            )
        ids = list(self._tokenizer(prompt)["input_ids"])
        if ids and ids[-1] == self._tokenizer.eos_token_id:
            ids.pop()  # a text that is to be continued has not ended
        return ids or [self._pad]

    def _room(self, ids: list[int], limit: int) -> int:
        return limit - len(ids)

    def _begin(self, prompts: Sequence[list[int]]) -> Following:
        tokens, mask = self._padded(prompts, left=True)
        past = None

        def following(chosen: Tensor | None) -> Tensor:
            nonlocal tokens, mask, past
            if chosen is not None:
                tokens = chosen[:, None]
                mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            options: dict[str, Any] = dict(self._last_only)
            if self._numbers_places:
                places = (mask.cumsum(1) - 1)[:, -tokens.shape[1] :]
                # Padding stands before the first place; texts that have ended may be carried along beyond the last.
                options["position_ids"] = places.clamp(0, self._limit - 1 if self._limit else None)
            output = self.net(input_ids=tokens, attention_mask=mask, past_key_values=past, use_cache=True, **options)
            past = output.past_key_values
            return cast(Tensor, output.logits[:, -1])

        return following


class Seq2SeqWriter(LocalWriter):
    """A sequence-to-sequence model (T5, BART, ...): an encoder reads the prompt once, a decoder writes the text from it."""

    chats = True  # what it reads is a task, not the beginning of a text

    def __init__(self, net: Any, tokenizer: Any, revision: str, device: str, batch_size: int = 64) -> None:
        super().__init__(net, tokenizer, revision, device, batch_size)
        known = [getattr(where, "decoder_start_token_id", None) for where in (net.generation_config, net.config)]
        self._start = next((start for start in (*known, tokenizer.bos_token_id) if start is not None), self._pad)

    def _tokens(self, prompt: str) -> list[int]:
        return list(self._tokenizer(prompt)["input_ids"]) or [self._pad]

    def _room(self, ids: list[int], limit: int) -> int:
        return limit if len(ids) <= limit else 0

    def _begin(self, prompts: Sequence[list[int]]) -> Following:
        tokens, mask = self._padded(prompts, left=False)
        read = self.net.get_encoder()(input_ids=tokens, attention_mask=mask, return_dict=True)
        start = torch.full((len(prompts),), self._start, device=self.device)
        past = None

        def following(chosen: Tensor | None) -> Tensor:
            nonlocal past
            output = self.net(
                encoder_outputs=read,
                attention_mask=mask,
                decoder_input_ids=(start if chosen is None else chosen)[:, None],
                past_key_values=past,
                use_cache=True,
            )
            past = output.past_key_values
            return cast(Tensor, output.logits[:, -1])

        return following


def uniforms(seed: int, count: int) -> Tensor:
    """Numbers in [0, 1) to draw the tokens of one text with."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row, by the inverse of the cumulated probability.

    Args:
        logits: (B, V). uniform: (B,), in [0, 1), float64.
        temperature: 0 takes the likeliest token.
        top_p: the nucleus is the smallest set of likeliest tokens that holds at least this probability.
    Returns: (B,) int64.

    Cumulated in the order of the vocabulary, not of the probability, so that two almost equally likely tokens that
    change places through rounding do not change what is drawn.
    """
    if temperature == 0:
        return logits.argmax(dim=1)
    chances = (logits.double() / temperature).softmax(dim=1)
    if top_p < 1:
        ordered, order = chances.sort(dim=1, descending=True, stable=True)
        outside = ordered.cumsum(dim=1) - ordered >= top_p
        chances = chances.masked_fill(outside.scatter(1, order, outside), 0.0)
    cumulated = chances.cumsum(dim=1)
    token = torch.searchsorted(cumulated, (uniform * cumulated[:, -1])[:, None], right=True)[:, 0]
    return token.clamp(max=logits.shape[1] - 1)


class InFlight:
    """How many requests may be on their way: half as many when the server says "too many", one more for each round of answers.

    The client repeats what was refused by itself; this looks at every answer that it gets, those that it repeats included.
    """

    busy = (429, 503)  # statuses of a server that is asked too much

    def __init__(self, most: int) -> None:
        self.most, self._limit = most, float(most)
        self._cut, self._one = float("-inf"), threading.Lock()

    @property
    def limit(self) -> int:
        """Requests that may be on their way now."""
        return int(self._limit)

    def asked(self, request: Any) -> None:
        """Hook of the client: a request goes out."""
        request.extensions["reverie.asked"] = time.monotonic()

    def answered(self, response: Any) -> None:
        """Hook of the client: an answer comes."""
        with self._one:
            if response.status_code in self.busy:
                if (
                    response.request.extensions["reverie.asked"] > self._cut
                ):  # those asked before had no chance to be fewer
                    self._limit, self._cut = max(1.0, self._limit / 2), time.monotonic()
            elif response.is_success:
                self._limit = min(float(self.most), self._limit + 1 / self._limit)


class ServerWriter:
    """Chat completions of an OpenAI-compatible server (vLLM, Ollama, llama.cpp, a paid one).

    The ``openai`` client retries by itself on 408, 409, 429, 5xx, time-outs and broken connections, with exponential
    back-off and jitter, and waits as long as the server's Retry-After says. How many requests are on their way at once follows
    what the server bears, see ``InFlight``. The key comes from the environment variable
    OPENAI_API_KEY and goes nowhere but into the request's header.
    """

    chats = True
    max_retries = 8  # 0.5 s, 1 s, 2 s, ... at most 8 s each: about 40 s in all before giving up
    timeout_s = 120.0

    def __init__(self, place: Located, cache: Path | None, parallel: int) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtra("a model behind a server", "openai") from error
        self.revision = str(place)
        self._model, self._url, self.in_flight = place.path_or_id, place.url, InFlight(parallel)
        self._openai = openai
        self._key = os.environ.get("OPENAI_API_KEY", "")
        self._client = openai.OpenAI(
            base_url=place.url,
            api_key=self._key or "none",
            max_retries=self.max_retries,
            timeout=self.timeout_s,
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [self.in_flight.asked], "response": [self.in_flight.answered]}
            ),
        )
        self._cache = _Answers(cache) if cache else None
        self._has_answered = False  # with a text, to anything so far
        self.num_read = self.num_written = 0  # tokens so far, as the server counts them

    def write(
        self, prompts: Sequence[str], seeds: Sequence[int], max_tokens: int, temperature: float, top_p: float
    ) -> list[str]:
        """See ``Writer``. Raises ModelError when the server refuses, stays away after all retries, or gives no text at all.

        What was answered until then is in the cache, so the next run goes on from there. An answer without a text among others
        that have one is an empty text, and is not kept.
        """
        return self.answer(prompts, seeds, max_tokens, temperature, top_p)

    def answer(
        self, asked: Sequence[Any], seeds: Sequence[int], max_tokens: int, temperature: float, top_p: float
    ) -> list[str]:
        """The same for anything that a server takes as the content of a message, such as a text beside a picture."""
        requests = [
            {
                "model": self._model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": max_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "seed": seed % 2**31,  # some servers read a 32-bit number
            }
            for content, seed in zip(asked, seeds, strict=True)
        ]
        keys = [hashlib.sha256(json.dumps([self._url, request]).encode()).hexdigest() for request in requests]
        answers = self._cache.find(keys) if self._cache else {}
        waiting = {key: request for key, request in zip(keys, requests, strict=True) if key not in answers}
        first_error: BaseException | None = None
        empty: list[_NoText] = []
        left = deque(waiting)
        with ThreadPoolExecutor(max(1, min(self.in_flight.most, len(waiting)))) as threads:
            futures: dict[Future[tuple[str, int, int]], str] = {}
            while left or futures:
                while left and len(futures) < self.in_flight.limit:
                    key = left.popleft()
                    futures[threads.submit(self._ask, waiting[key])] = key
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    key = futures.pop(future)
                    if isinstance(error := future.exception(), _NoText):
                        empty.append(error)
                    elif error:
                        # Ask nothing more, but keep the answers that are on their way: they may have cost money.
                        first_error = first_error or error
                        left.clear()
                    else:
                        answers[key], read, written = future.result()
                        self.num_read, self.num_written = self.num_read + read, self.num_written + written
                        if self._cache:
                            self._cache.keep(key, waiting[key], answers[key])
        if first_error:
            raise first_error
        self._has_answered |= bool(answers)
        if empty and not self._has_answered:
            raise ModelError(str(empty[0]))
        return [answers.get(key, "").strip() for key in keys]

    def _ask(self, request: dict[str, Any]) -> tuple[str, int, int]:
        try:
            reply = self._client.chat.completions.create(**request)
        except self._openai.APIStatusError as error:
            # Of these a server may say one about a single prompt, such as one that its rules refuse.
            kind = _NoText if error.status_code in (400, 413, 422) else ModelError
            raise kind(f"{self._url} answered {error.status_code} for {self._model}: {self._told(error)}") from None
        except self._openai.APIConnectionError as error:
            raise ModelError(
                f"{self._url} cannot be reached ({self._told(error)}); start the server, then run again"
            ) from None
        except Exception as error:  # whatever a library can say of bytes that are not what it expects
            raise _NoText(f"{self._url} gave an answer that cannot be read: {self._told(error)}") from None
        text = _text_of(reply)
        if text is None:
            raise _NoText(f"{self._url} answered without a text; is it an OpenAI-compatible address, ending in /v1?")
        usage = getattr(reply, "usage", None)
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        read, written = (number if isinstance(number, int) else 0 for number in counts)
        return text, read, written

    def _told(self, error: Exception) -> str:
        text = " ".join(str(getattr(error, "message", error)).split())[:200]
        return text.replace(self._key, "(key)") if self._key else text


class _NoText(Exception):
    """One answer that holds no text."""


def _text_of(reply: Any) -> str | None:
    """The text of a completion, also where it comes in parts; None for an answer that has none."""
    choices = getattr(reply, "choices", None)
    first = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(first, "message", None)
    content = getattr(message, "content", None)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else getattr(part, "text", None) for part in content]
        content = "".join(part for part in parts if isinstance(part, str)) or None
    if not isinstance(content, str):
        return None
    # Half a pair, of a text that was cut in the midst of an emoji: no file and no column takes it.
    return "".join(char for char in content if not "\ud800" <= char <= "\udfff")


class _Answers:
    """Answers on disk, by the hash of the whole request. One row is one transaction, so a kill loses none that was kept."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with self._told(), closing(self._open()) as file, file:
            file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT, answer TEXT)")

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        with self._told(), closing(self._open()) as file:
            rows = (file.execute("SELECT key, answer FROM answers WHERE key = ?", (key,)).fetchone() for key in keys)
            return {row[0]: row[1] for row in rows if row}

    def keep(self, key: str, request: dict[str, Any], answer: str) -> None:
        with self._told(), closing(self._open()) as file, file:
            told = PICTURE.sub("(a picture)", json.dumps(request))
            file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, told, answer))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "disk" in str(error):  # full, or an error of its own: the command line knows what to say
                raise
            raise StoreError(
                f"{self._path} is damaged or not ours ({error}); delete it, which forgets the answers in it, and run again"
            ) from error

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=60)
