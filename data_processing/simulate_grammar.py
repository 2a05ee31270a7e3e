"""Task grammars of the log generator and the users who work through them.

A task is a line of a small language: ``T:wall`` is the tool of a noun, ``C:`` its create event, ``E:`` its
edit event, ``G:verb`` a generic event, ``M:submenu.verb.noun`` a menu, ``P:verb.noun`` a high-level event;
``x?0.3`` is optional, ``(x y){2,5}`` a loop, ``(x | y)`` a choice. A noun may be a slot: ``a`` and ``b``
are bound when the task starts, ``r`` and ``q`` are the objects of the last task that drew some, ``n`` the
annotation that belongs to ``r``. So what comes next depends on choices made long before, which a Markov
model of low order cannot see.
"""

import re
from dataclasses import dataclass
from random import Random

from data_processing.simulate_catalogue import LANGUAGES, Catalogue

# name -> (weight, family of slot a, family of slot b, text, usual next tasks)
TASKS: dict[str, tuple[float, str, str, str, tuple[str, ...]]] = {
    "shell": (
        5, "shell", "opening",
        "M:organise.new.layer?0.3 (T:a C:a){2,5} (G:drag E:a)?0.4 (T:b C:b){1,4} "
        "M:edit.select.object?0.4 (G:drag E:a T:b C:b){1,3} M:file.save.document?0.5 E:b",
        ("fit_out", "annotate", "spaces"),
    ),
    "fit_out": (
        4, "fitting", "fitting",
        "T:a C:a (G:duplicate G:drag){1,4} T:rotate G:rotate E:a (T:b C:b G:duplicate T:rotate "
        "G:rotate){1,2} G:drag E:b M:modify.assign.class G:assign",
        ("annotate", "spaces"),
    ),
    "draft": (
        4, "draft", "draft",
        "(T:a C:a T:b C:b){1,4} (T:trim G:trim | T:offset G:offset | T:fillet G:fillet){1,3} (G:drag "
        "E:a){0,2} G:combine M:modify.group.object G:group M:modify.edit.group E:b",
        ("annotate", "tidy"),
    ),
    "solids": (
        3, "solid", "solid",
        "T:a C:a T:b C:b T:move G:move (M:model.add.object G:add | M:model.subtract.object "
        "G:subtract){1,2} T:fillet G:fillet (T:chamfer G:chamfer)?0.4 E:a T:scale G:scale E:b",
        ("texture", "draft"),
    ),
    "site": (
        2, "site", "site",
        "M:model.create.site_model?0.5 (T:a C:a G:duplicate){1,4} M:model.update.site_model T:b C:b "
        "G:drag E:a M:model.update.site_model E:b P:convert.tree?0.3",
        ("annotate", "texture"),
    ),
    "stage": (
        2, "stage", "stage",
        "(T:a C:a){1,3} M:edit.duplicate.object G:duplicate G:align (T:b C:b G:align){1,3} "
        "M:modify.align.object G:align E:a M:modify.assign.record G:assign E:b",
        ("annotate", "sheets"),
    ),
    "spaces": (
        2, "plan", "shell",
        "M:aec.create.space T:a C:a (E:a G:drag T:a C:a){1,3} M:aec.update.worksheet "
        "(M:aec.edit.worksheet M:aec.update.worksheet){0,2} P:convert.space?0.3 E:b",
        ("sheets", "annotate"),
    ),
    "annotate": (
        4, "note", "note",
        "(T:n C:n G:drag){1,4} E:r (T:a C:a){0,3} M:edit.select.object E:q T:n C:n E:n",
        ("sheets", "publish"),
    ),
    "sheets": (
        3, "sheet", "note",
        "M:organise.new.sheet M:organise.edit.sheet T:title_block C:title_block (T:a C:a G:move){1,3} "
        "M:organise.edit.sheet T:b C:b E:a M:view.update.rendering",
        ("publish", "annotate"),
    ),
    "publish": (
        2, "sheet", "note",
        "M:view.update.rendering?0.5 M:file.save.document (M:file.export.pdf | M:file.export.dwg | "
        "M:file.export.ifc | M:file.print.sheet){1,2} M:file.save.document E:a",
        ("shell", "draft"),
    ),
    "trace": (
        2, "draft", "shell",
        "(M:file.import.dwg | M:file.import.pdf | M:file.import.image) M:organise.new.layer G:move "
        "T:scale G:scale (T:a C:a){1,4} M:modify.convert.polyline E:a M:organise.hide.layer T:b C:b E:b",
        ("shell", "draft"),
    ),
    "organise": (
        2, "plan", "draft",
        "(M:organise.new.class M:organise.edit.class){1,3} M:edit.select.class M:modify.assign.class "
        "G:assign (M:organise.hide.class | M:organise.show.class) M:modify.assign.layer G:assign E:r "
        "M:organise.hide.layer?0.5 E:q",
        ("shell", "tidy", "draft"),
    ),
    "texture": (
        2, "solid", "shell",
        "M:model.new.texture M:model.edit.texture (M:modify.assign.texture G:assign E:r){1,3} "
        "M:view.edit.rendering M:view.show.rendering M:model.new.material?0.3 M:modify.assign.material "
        "G:assign E:q M:view.show.rendering",
        ("publish", "camera"),
    ),
    "camera": (
        1, "plan", "plan",
        "M:view.new.camera (M:view.edit.camera M:view.show.rendering){1,3} M:file.export.image E:r",
        ("texture", "publish"),
    ),
    "tidy": (
        2, "draft", "draft",
        "(M:edit.select.object | M:edit.select.layer) G:delete (M:view.hide.selection G:delete){0,2} "
        "M:organise.purge.document M:modify.ungroup.group G:ungroup T:split G:split E:r",
        ("organise", "publish"),
    ),
    "reference": (
        1, "plan", "draft",
        "M:file.new.reference (M:file.update.reference G:move){1,2} M:aec.new.record "
        "M:modify.assign.record G:assign T:a C:a M:aec.edit.story?0.3 E:a",
        ("trace", "shell"),
    ),
    "convert": (
        1.5, "draft", "shell",
        "T:a C:a G:drag (P:convert.wall | M:aec.create.wall | M:aec.create.roof | "
        "M:model.create.extrude) E:a (M:modify.create.hatch | M:model.create.light | "
        "M:organise.create.title_block)?0.5 T:b C:b E:b",
        ("shell", "solids"),
    ),
}  # fmt: skip

# Short interruptions of any task; each user has favourites. After one the task goes on where it stood.
SUBSEQUENCES = (
    "M:edit.copy.selection M:edit.paste.selection G:paste",
    "M:file.save.document M:view.show.selection",
    "T:move G:move G:align",
    "M:modify.mirror.object T:mirror G:mirror",
    "M:edit.duplicate.object G:duplicate G:move",
    "M:edit.select.object M:edit.delete.selection G:delete",
    "M:modify.group.object G:group",
    "T:rotate G:rotate M:modify.rotate.object",
)
# Single generic commands that come between any two steps, each user's own mixture of them.
CLUTTER = (
    "M:file.save.document G:drag M:edit.select.object M:view.show.selection M:view.hide.selection G:move "
    "M:organise.show.class M:organise.hide.class M:organise.show.layer M:organise.hide.layer G:delete "
    "G:duplicate "
    "M:edit.copy.selection G:align M:modify.assign.class M:view.show.rendering G:rotate "
    "M:modify.align.object "
    "M:edit.select.class G:scale G:offset G:trim M:modify.edit.group G:assign"
)
ANNOTATIONS = ("dimension", "callout", "tag", "keynote", "text")

# Gap classes of an operation: the pace at which it follows the one before it.
FAST, SLOW, PAUSE, AT_ONCE = 0, 1, 2, 3

Node = tuple
_TOKEN = re.compile(r"[()|]|\?[\d.]+|\{\d+,\d+\}|[^\s()|?{}]+")


def parse_grammar(text: str, catalogue: Catalogue, ids: list[int]) -> Node:
    """Parse a task's text into nested tuples; `ids` counts choices, which are where users have habits."""
    tokens = _TOKEN.findall(text)

    def branch(at: int) -> tuple[Node, int]:
        nodes: list[Node] = []
        while at < len(tokens) and tokens[at] not in "|)":
            node, at = item(at)
            nodes.append(node)
        return ("seq", nodes), at

    def item(at: int) -> tuple[Node, int]:
        if tokens[at] == "(":
            options, at = [], at
            while tokens[at] != ")":
                option, at = branch(at + 1)
                options.append(option)
            node: Node = options[0] if len(options) == 1 else ("alt", _next(ids), options)
        else:
            prefix, noun = tokens[at].split(":")
            fixed = len(noun) > 1
            node = ("fixed", catalogue.index[tokens[at]]) if fixed else ("slot", prefix + ":", noun)
        at += 1
        if at < len(tokens) and tokens[at][0] == "?":
            return ("opt", _next(ids), float(tokens[at][1:]), node), at + 1
        if at < len(tokens) and tokens[at][0] == "{":
            low, high = map(int, tokens[at][1:-1].split(","))
            return ("loop", _next(ids), low, high, node), at + 1
        return node, at

    return branch(0)[0]


def _next(ids: list[int]) -> int:
    ids[0] += 1
    return ids[0] - 1


@dataclass(frozen=True)
class Grammar:
    """All tasks and interruptions, parsed against a catalogue."""

    catalogue: Catalogue
    tasks: dict[str, Node]
    interruptions: list[list[int]]
    clutter: list[int]
    choices: int


def build_grammar(catalogue: Catalogue) -> Grammar:
    """Parse `TASKS` and `SUBSEQUENCES`."""
    ids = [0]
    tasks = {name: parse_grammar(spec[3], catalogue, ids) for name, spec in TASKS.items()}
    interruptions = [[catalogue.index[key] for key in text.split()] for text in SUBSEQUENCES]
    clutter = [catalogue.index[key] for key in CLUTTER.split()]
    return Grammar(catalogue, tasks, interruptions, clutter, ids[0])


class User:
    """One person: language, mixture of tasks, favourite objects, habits at choices, undo rate."""

    def __init__(self, grammar: Grammar, rng: Random, undo_rate: float) -> None:
        self.grammar = grammar
        self.language = rng.choices(range(len(LANGUAGES)), (0.5, 0.2, 0.12, 0.1, 0.08))[0]
        self.task_weights = [spec[0] * rng.gammavariate(0.6, 1.0) + 1e-3 for spec in TASKS.values()]
        self.follow = rng.uniform(0.35, 0.75)
        self.habits = [rng.random() for _ in range(grammar.choices)]
        self.interruptions = rng.sample(range(len(SUBSEQUENCES)), 3)
        self.clutter_weights = [rng.gammavariate(0.5, 1.0) + 0.02 for _ in CLUTTER.split()]
        self.undo_rate = min(1.0, undo_rate * rng.uniform(0.4, 1.6))
        # Zipf over a family's nouns, mostly in the house order, with a personal shuffle of the weights.
        self.favourites = {
            family: [rng.uniform(0.3, 1.7) / (rank + 1) ** 1.1 for rank in range(len(nouns))]
            for family, nouns in grammar.catalogue.families.items()
        }


class Planner:
    """Unrolls tasks of one session into commands; remembers what was drawn, which later tasks refer to."""

    def __init__(self, user: User, rng: Random) -> None:
        self.user, self.rng = user, rng
        self.index = user.grammar.catalogue.index
        nouns = user.grammar.catalogue.families
        # A session is about one project: the same few objects come back in it.
        self.project = {f: rng.choices(nouns[f], user.favourites[f], k=2) for f in nouns}
        self.slots = {"r": self._pick("shell"), "q": self._pick("draft")}
        self.task = ""

    def _pick(self, family: str) -> str:
        if self.rng.random() < 0.8:
            return self.project[family][self.rng.random() < 0.3]
        user = self.user
        return self.rng.choices(user.grammar.catalogue.families[family], user.favourites[family])[0]

    def next_task(self) -> tuple[list[int], list[int]]:
        """Commands of one task and their gap classes."""
        rng, user = self.rng, self.user
        if self.task and rng.random() < user.follow:
            usual = TASKS[self.task][4]
            self.task = usual[0] if rng.random() < 0.7 else rng.choice(usual)
        else:
            self.task = rng.choices(list(TASKS), user.task_weights)[0]
        _, family_a, family_b, _, _ = TASKS[self.task]
        slots = self.slots
        slots["a"], slots["b"] = self._pick(family_a), self._pick(family_b)
        drawn = user.grammar.catalogue.families
        slots["n"] = ANNOTATIONS[_position(drawn, slots["r"]) % len(ANNOTATIONS)]
        commands: list[int] = []
        gaps: list[int] = []
        self._unroll(user.grammar.tasks[self.task], commands, gaps)
        gaps[0] = PAUSE
        if family_a not in ("note", "sheet", "plan"):
            slots["r"], slots["q"] = slots["a"], slots["b"]
        return commands, gaps

    def _unroll(self, node: Node, commands: list[int], gaps: list[int]) -> None:
        kind = node[0]
        if kind == "fixed":
            commands.append(node[1])
            gaps.append(FAST)
        elif kind == "slot":
            commands.append(self.index[node[1] + self.slots[node[2]]])
            gaps.append(FAST)
        elif kind == "seq":
            for child in node[1]:
                self._unroll(child, commands, gaps)
        elif kind == "loop":
            self._loop(node, commands, gaps)
        elif kind == "opt":
            if self._draw(node[1]) < node[2]:
                self._unroll(node[3], commands, gaps)
        else:
            self._unroll(node[2][int(self._draw(node[1]) * len(node[2]))], commands, gaps)

    def _loop(self, node: Node, commands: list[int], gaps: list[int]) -> None:
        _, choice, low, high, child = node
        count = low + int(self._draw(choice) * (high - low + 1))
        for i in range(count):
            start = len(commands)
            self._unroll(child, commands, gaps)
            if i == count - 1 and count > 1:
                gaps[start] = SLOW  # people slow down before the last of a series: the gap announces its end

    def _draw(self, choice: int) -> float:
        """A number in [0, 1): the user's habit at this choice, or chance."""
        return self.user.habits[choice] if self.rng.random() < 0.75 else self.rng.random()


def _position(families: dict[str, list[str]], noun: str) -> int:
    return next(nouns.index(noun) + 3 * i for i, nouns in enumerate(families.values()) if noun in nouns)
