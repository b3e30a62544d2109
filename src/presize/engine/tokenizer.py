"""Text to tokens and back: the tokenizer of the model's directory, through transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from presize.errors import CapacityError, InvalidRequestError, ModelError, first_line
from presize.predict.vocabulary import fingerprint

MAX_PROMPT_CHARACTERS = 2**24


class Tokenizer:
    """Wraps a fast tokenizer; its chat template is rendered in transformers' sandbox, never as code."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._inner: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # the library's parsers raise bare exceptions for damaged files
            raise ModelError(f"can not load the tokenizer in {directory}: {first_line(error)}") from error
        if not self._inner.is_fast:
            raise ModelError(f"{directory} has no tokenizer.json; only fast tokenizers are supported")

    def encode(self, text: str, *, special: bool = True, most: int | None = None) -> list[int]:
        """Token ids of a prompt, with the ``special`` tokens that the model puts in front.

        CapacityError, before they are made, if they are certain to be more than ``most``; else there may be more.
        """
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise InvalidRequestError(f"prompt has {len(text)} characters; at most {MAX_PROMPT_CHARACTERS} are allowed")
        return self._ids(text, special=special, most=most)

    def encode_chat(self, messages: Sequence[dict[str, str]], *, most: int | None = None) -> list[int]:
        """Token ids of a conversation, by the model's chat template, ready for the assistant's answer.

        most: as for `encode`.
        """
        from jinja2 import TemplateError

        if self._inner.chat_template is None:
            raise InvalidRequestError("the model has no chat template; send `prompt` instead of `messages`")
        try:
            text = self._inner.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise InvalidRequestError(f"the chat template refuses these messages: {error}") from error
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise InvalidRequestError(f"messages have {len(text)} characters; at most {MAX_PROMPT_CHARACTERS}")
        return self._ids(text, special=False, most=most)

    def _ids(self, text: str, *, special: bool, most: int | None) -> list[int]:
        try:
            if most is not None and (size := len(text.encode())) > most and self._longest_token:
                least = -(-size // self._longest_token)
                if least > most:
                    raise CapacityError(
                        f"prompt has {size} bytes, which are {least} tokens at least; with at least one of answer it "
                        f"must fit {most + 1}"
                    )
            return list(self._inner(text, add_special_tokens=special)["input_ids"])
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidRequestError("prompt holds half of a surrogate pair; it is not valid text") from error

    @cached_property
    def _longest_token(self) -> int:
        """Bytes of the longest token; 0 if a text can be fewer tokens than it has times so many bytes."""
        return longest_token(json.loads(self.content()))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        return str(self._inner.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_text(self, token_id: int) -> str:
        """One token as text, a special one too; a part of a character is shown as a replacement character."""
        return str(self._inner.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def fingerprint(self) -> str:
        """The same for two tokenizers that make the same tokens: a hash of the vocabulary."""
        return fingerprint(self._inner.get_vocab())

    def content(self) -> bytes:
        """All of it, as `tokenizer.json` has it."""
        return str(self._inner.backend_tokenizer.to_str()).encode()

    def stream(self, stops: Sequence[str]) -> TextStream:
        """A stream that looks for stop strings."""
        return TextStream(self._inner.backend_tokenizer, stops)


def longest_token(content: dict[str, Any]) -> int:
    """Bytes of the longest token of a `tokenizer.json`; 0 unless every byte of a text is certain to be in a token.

    That is so in byte-level BPE without a normalizer: nothing is made shorter first, nothing between two tokens is
    dropped, and no byte is unknown. Llama 3 and SmolLM2 have such a one, Qwen's normalizes.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    model, before = content["model"], content["pre_tokenizer"] or {"type": None}
    steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    whole = (
        model["type"] == "BPE"
        and not model["continuing_subword_prefix"]
        and not model["end_of_word_suffix"]
        and content["normalizer"] is None
        and content["truncation"] is None
        and steps[-1]["type"] == "ByteLevel"
        and all(
            step["type"] in ("ByteLevel", "Digits") or (step["type"] == "Split" and step["behavior"] != "Removed")
            for step in steps
        )
        and set(ByteLevel.alphabet()) <= set(model["vocab"])
        and not any(token["lstrip"] or token["rstrip"] for token in content["added_tokens"])  # they take spaces in
    )
    if not whole:
        return 0
    added = {token["content"]: len(token["content"].encode()) for token in content["added_tokens"]}
    return max(added.get(token, len(token)) for token in [*model["vocab"], *added])  # a character stands for a byte


class TextStream:
    """Text of an answer as it grows, watched for stop strings; one may begin and end anywhere inside tokens.

    ``text`` is all that is known; ``settled`` how much of it can be shown: not what may be the start of a stop string.
    """

    def __init__(self, backend: Any, stops: Sequence[str]) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend = backend
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stops = [_Stop(stop) for stop in stops]
        self.text = ""
        self.matched: str | None = None

    @property
    def settled(self) -> int:
        """Characters of ``text`` that no stop string can take back any more."""
        return len(self.text) - max((stop.begun for stop in self._stops), default=0)

    def push(self, token_id: int, may_stop: bool) -> bool:
        """Add a token; True if a stop string is complete now: ``text`` then ends before the earliest of them."""
        piece = self._decoder.step(self._backend, token_id)
        if not piece:
            return False
        known = len(self.text)
        self.text += piece
        for stop in self._stops:
            stop.feed(piece)
        # only what this piece completes: a string heard before min_tokens does not cut the answer later
        places = [(self.text.find(s.text, max(known - len(s.text) + 1, 0)), s.text) for s in self._stops]
        found = [place for place in places if place[0] >= 0]
        if not found or not may_stop:
            return False
        at, self.matched = min(found)
        self.text = self.text[:at]
        return True


class _Stop:
    """A stop string, and how much of its beginning the text so far ends with (Knuth, Morris and Pratt 1977)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.begun = 0
        self._shorter = [0]  # of each beginning: the longest shorter one that it ends with
        for place in range(1, len(text)):
            self._shorter.append(self._after(self._shorter[-1], text[place]))

    def feed(self, piece: str) -> None:
        """The text goes on."""
        for character in piece:
            if self.begun == len(self.text):
                self.begun = self._shorter[-1]
            self.begun = self._after(self.begun, character)

    def _after(self, begun: int, character: str) -> int:
        while begun and self.text[begun] != character:
            begun = self._shorter[begun - 1]
        return begun + (self.text[begun] == character)
