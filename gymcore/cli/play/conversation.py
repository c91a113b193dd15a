"""
The game itself: what the model is asked is shown, and what the person types becomes its reply.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gymcore.cli.play.desk import Question
from gymcore.cli.play.screen import PROMPT, Keyboard, Screen
from gymcore.cli.play.typed import TypingError, read_call
from gymcore.errors import GymcoreError, ModelError, nearest
from gymcore.records import Rollout, ToolCall
from gymcore.responses import Item, Request, function_call, message, text_of

__all__ = ["Conversation", "QuitError", "show_items", "show_outcome"]

COMMANDS = {
    "/TOOL ARGUMENTS": 'call a tool: /get_weather Oslo, /get_weather city=Oslo, /get_weather {"city": "Oslo"}',
    "/call NAME ARGUMENTS": "the same, for a tool of any name, also one that does not exist",
    "/also NAME ARGUMENTS": "a call that goes together with the next one, or with the next answer",
    "/say TEXT": "answer, also with a text that begins with a slash, or with none at all",
    '"""': "begins an answer of several lines, and ends it",
    "/task": "show the conversation again",
    "/tools": "show the tools again",
    "/row": "show the whole row, what the verifier reads included",
    "/solution": "let the reference solution play the same task, and show what it does",
    "/quit": "leave without a reward",
    "/help": "this",
}
WORDS = ("/call", "/also", "/say", "/task", "/tools", "/row", "/solution", "/quit", "/help")


class QuitError(Exception):
    """The person does not want to go on."""


class Conversation:
    """
    One rollout, as the person in the place of the model sees it.

    Args:
        screen: Where everything is shown.
        row: The task.
        solution: Plays the task with the reference solution; None where there is none.
    """

    def __init__(self, screen: Screen, row: Mapping[str, Any], solution: Callable[[], Rollout] | None) -> None:
        self._screen = screen
        self._row = row
        self._solution = solution
        self._keyboard: Keyboard | None = None
        self._tools: dict[str, Item] = {}
        self._attempt: object = None
        self._request: Request | None = None
        self._said: list[Item] = []
        """What the person said last."""
        self._replies = 0
        self._is_ended = False

    def answer(self, question: Question) -> None:
        """
        Show a question and let the person answer it.

        Raises:
            QuitError: they do not want to.
        """
        self._notice_attempt(question.attempt)
        if self._is_ended:
            question.refuse(ModelError("the input has ended, and the agent asks on", retryable=False))
            return
        self._show_question(question.request)
        self._replies += 1
        parts = self._parts()
        if parts is None:
            self._said = []  # all that came after it has been shown with the question
            self._screen.note("(the input has ended: the rollout is scored as it is, like a reply that was cut off)")
            question.answer([], is_end=True)
            return
        self._said = [
            message(part)
            if isinstance(part, str)
            else function_call(part.name, part.arguments, f"call_{self._replies}_{index}")
            for index, part in enumerate(parts)
        ]
        question.answer(self._said)

    def unseen(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return what came after the person's last reply, of all that happened in a rollout."""
        for place in range(len(items) - len(self._said), -1, -1):
            if self._said and list(items[place : place + len(self._said)]) == self._said:
                return items[place + len(self._said) :]
        return ()

    def _notice_attempt(self, attempt: object) -> None:
        """Say so where the rollout begins again: the runtime plays it once more where its process has died."""
        if self._attempt is not None and attempt is not self._attempt:
            self._screen.mistake("the process in which the environment plays has died, and with it this attempt")
            self._screen.note("(the rollout begins again, as it would in a run; what dies again is a failure)")
            self._request, self._said = None, []
        self._attempt = attempt

    # -- showing ------------------------------------------------------------------------------------------------------

    def _show_question(self, request: Request) -> None:
        """Show what is new; all of it where an agent asks something else than before."""
        before, self._request = self._request, request
        known = (*before.input, *self._said) if before is not None else None
        offered = {str(tool.get("name", "")): tool for tool in request.params.get("tools") or ()}
        is_new = before is None or offered != self._tools
        self._tools = offered
        if known is None or request.input[: len(known)] != known:
            if before is not None:
                self._screen.note("(the agent asks anew)")
            self._show_task()
        else:
            show_items(self._screen, request.input[len(known) :], request.input)
        if is_new:
            self._show_tools()
        if self._keyboard is None:
            self._screen.note("You are the model: type its answer, or call a tool; /help tells more.")
            self._keyboard = Keyboard(self._screen, [*WORDS, *(f"/{name}" for name in offered)])

    def _show_task(self) -> None:
        if self._request is None:
            return
        instructions = self._request.params.get("instructions")
        if isinstance(instructions, str):
            self._screen.heading("instructions")
            self._screen.body(instructions)
        show_items(self._screen, self._request.input, self._request.input)

    def _show_tools(self) -> None:
        if not self._tools:
            self._screen.note("(no tools)")
            return
        self._screen.heading("tools")
        for name, tool in self._tools.items():
            parameters = tool.get("parameters") or {}
            required = parameters.get("required", ())
            properties: dict[str, Any] = parameters.get("properties") or {}
            usage = " ".join(key if key in required else f"[{key}]" for key in properties)
            self._screen.body(f"/{name} {usage}".rstrip())
            if tool.get("description"):
                self._screen.body(f"    {tool['description']}")
            for key, schema in properties.items():
                self._screen.body(f"    {key}: {_described(schema)}")

    def _show_help(self) -> None:
        width = max(map(len, COMMANDS))
        for command, meaning in COMMANDS.items():
            self._screen.body(f"{command:{width}}  {meaning}")
        self._screen.body("anything else is the model's answer")

    def _show_row(self) -> None:
        self._screen.heading("row")
        self._screen.body(json.dumps(self._row, indent=2, ensure_ascii=False))

    def _show_solution(self) -> None:
        if self._solution is None:
            self._screen.mistake("this environment has no reference solution")
            return
        try:
            rollout = self._solution()
        except GymcoreError as error:
            self._screen.mistake(f"the reference solution could not be played: {error}")
            return
        self._screen.heading("the reference solution")
        show_items(self._screen, rollout.trajectory.items, rollout.trajectory.items)
        show_outcome(self._screen, rollout)
        self._screen.note("(that was another rollout; yours goes on)")

    # -- typing -------------------------------------------------------------------------------------------------------

    def _parts(self) -> list[str | ToolCall] | None:
        """Read lines until there is a reply, and return its texts and calls; None at the end of the input."""
        waiting: list[str | ToolCall] = []
        while (line := self._line()) is not None:
            try:
                part = self._part(line.strip(), waiting)
            except TypingError as error:
                self._screen.mistake(str(error))
                continue
            if part is not None:
                return [part, *waiting] if isinstance(part, str) else [*waiting, part]
        return None

    def _line(self, prompt: str = PROMPT) -> str | None:
        assert self._keyboard is not None
        if self._is_ended:
            return None
        line = self._keyboard.line(prompt)
        self._is_ended = line is None
        return line

    def _part(self, line: str, waiting: list[str | ToolCall]) -> str | ToolCall | None:
        """
        Do what a line says.

        Args:
            line: The line.
            waiting: The calls that wait for another; `/also` adds one.

        Returns:
            The text or the call that completes a reply; None where there is more to come.

        Raises:
            TypingError: it says nothing that could be done.
        """
        if line == '"""':
            return self._block()
        if not line.startswith("/"):
            if not line:
                raise TypingError("nothing was said; /say alone answers with an empty text, /quit leaves")
            return line
        word, _, rest = line.partition(" ")
        shows = {
            "/help": self._show_help,
            "/task": self._show_task,
            "/tools": self._show_tools,
            "/row": self._show_row,
            "/solution": self._show_solution,
        }
        # A tool that is called like a command of ours is reached with /call.
        if word in shows:
            shows[word]()
        elif word == "/quit":
            raise QuitError
        elif word == "/say":
            return rest.strip()
        elif word in ("/call", "/also"):
            if not rest.strip():
                raise TypingError(f"which tool? {word} NAME ARGUMENTS")
            call = read_call(rest.removeprefix("/"), self._tools)
            if word == "/call":
                return call
            waiting.append(call)
            self._screen.note(f"(waits for the next call or answer: {', '.join(_told(part) for part in waiting)})")
        elif word[1:] in self._tools:
            return read_call(line[1:], self._tools)
        else:
            self._refuse(word)
        return None

    def _refuse(self, word: str) -> None:
        close = nearest(word, [*WORDS, *(f"/{name}" for name in self._tools)], 1)
        hint = f"did you mean {close[0]}?" if close else "/help lists them"
        raise TypingError(f"neither a command nor a tool is called {word}; {hint} (/call {word[1:]} calls it anyway)")

    def _block(self) -> str | None:
        """Read an answer of several lines; None where the input ends before it does."""
        lines: list[str] = []
        while (line := self._line(". ")) is not None:
            if line.strip() == '"""':
                return "\n".join(lines)
            lines.append(line)
        return None


def _told(part: str | ToolCall) -> str:
    return part if isinstance(part, str) else f"{part.name} {part.arguments}"


def _described(schema: Any) -> str:
    """Say in a few words what an argument is."""
    if not isinstance(schema, Mapping):
        return "anything"
    text = _kind_of(schema)
    if "default" in schema:
        text += f", {json.dumps(schema['default'], ensure_ascii=False)} where nothing is said"
    return f"{text}; {schema['description']}" if schema.get("description") else text


def _kind_of(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_kind_of(inner) for inner in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind_of(schema.get('items') or {})}"
    return str(schema.get("type") or str(schema.get("$ref", "anything")).rpartition("/")[2])


def show_items(screen: Screen, items: Iterable[Item], all_items: Iterable[Item]) -> None:
    """
    Show what was said and done.

    Args:
        screen: Where.
        items: What to show.
        all_items: The whole conversation, in which the calls are to which results belong.
    """
    names = {item.get("call_id"): item.get("name") for item in all_items if item.get("type") == "function_call"}
    for item in items:
        kind = item.get("type", "message")
        if kind == "message":
            screen.heading(str(item.get("role", "message")))
            screen.body(text_of(item) or "(no text)")
        elif kind == "function_call":
            screen.heading(f"calls {item.get('name')}")
            screen.body(str(item.get("arguments", "")))
        elif kind == "function_call_output":
            screen.heading(f"{names.get(item.get('call_id'), 'tool')} returns")
            screen.body(item["output"] if isinstance(item.get("output"), str) else json.dumps(item.get("output")))
        else:
            screen.heading(str(kind))
            screen.body(json.dumps(item, ensure_ascii=False))


def show_outcome(screen: Screen, rollout: Rollout) -> None:
    """Show what a rollout came to: its reward with what explains it, or why there is none."""
    if rollout.failure is not None:
        failure = rollout.failure
        place = f" ({failure.location})" if failure.location else ""
        screen.mistake(f"no reward: the rollout failed in {failure.stage}: {failure.error}: {failure.message}{place}")
        return
    assert rollout.reward is not None
    turns = len(rollout.trajectory.turns)
    screen.result(f"reward {rollout.reward.value:g}")
    for title, values in (("parts", rollout.reward.parts), ("metrics", rollout.reward.metrics)):
        if values:
            screen.body(f"{title}: " + ", ".join(f"{key} {_shown(value)}" for key, value in values.items()))
    screen.body(f"{turns} {'turn' if turns == 1 else 'turns'}, ended: {rollout.trajectory.stop}")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
