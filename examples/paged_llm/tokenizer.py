"""Text to tokens and back, chat template included, from a Hugging Face model directory."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import InputError


class Tokenizer:
    def __init__(self, directory: Path):
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more specific
            raise InputError(
                "model", f"cannot read {directory / 'tokenizer.json'}: {error}"
            ) from None
        config_file = directory / "tokenizer_config.json"
        config = json.loads(config_file.read_text()) if config_file.exists() else {}
        template_file = directory / "chat_template.jinja"
        template = (
            template_file.read_text() if template_file.exists() else config.get("chat_template")
        )
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(template) if isinstance(template, str) else None
        self._special = {
            name: text
            for name in ("bos_token", "eos_token")
            if (text := _content(config.get(name)))
        }

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def encode_chat(self, message: str) -> list[int]:
        """The tokens that ask a chat model to answer `message`."""
        if self._template is None:
            raise InputError("raw", "needed: this model has no chat template")

        def refuse(reason: str) -> None:
            raise jinja2.TemplateError(reason)

        messages = [{"role": "user", "content": message}]
        text = self._template.render(
            messages=messages, add_generation_prompt=True, raise_exception=refuse, **self._special
        )
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)


class TextStream:
    """Turns tokens into text as they come; the pieces add up to the whole decoded at once.

    What a token prints may depend on its neighbours, and a character may take several tokens. So a
    piece is the difference between two decodings of the last few tokens, held back while it ends in
    half a character.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._pending: list[int] = []  # the tokens of the last piece, then those not printed yet
        self._printed = 0  # how many of them are of the last piece

    def put(self, token: int, last: bool = False) -> str:
        """The text that `token` adds, perhaps none; if it is the last one, all that is left."""
        self._pending.append(token)
        before = self._tokenizer.decode(self._pending[: self._printed])
        after = self._tokenizer.decode(self._pending)
        if after.endswith("\N{REPLACEMENT CHARACTER}") and not last:
            return ""
        del self._pending[: self._printed]
        self._printed = len(self._pending)
        return after[len(before) :]


def _content(token: str | dict | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token
