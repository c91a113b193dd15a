"""
Writes the three JSONL files of `example_multi_step` from the word list in `thesaurus.yaml`.

`python generate_data.py` writes `example`, `validation` and `train` into the plugin's data folder.
`python generate_data.py --check` writes nothing, and exits 1 when those files are not what would be written.
The same `SEED` gives the same bytes on every Python from 3.11 on.
The plugin must be installed: the tools in the rows are the ones its environment class offers.
This file does not judge answers; that is the verifier in `environment.py`.
"""

import argparse
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
DATA = HERE / "src" / "gym_plugin_example_multi_step" / "data"
SEED = 20_250_611
MAX_SHARE = 0.01
"""The largest part of the train rows that may expect the same list: a policy that guesses it must not profit."""

SPLITS = {"example": range(5), "validation": range(1_000, 1_200), "train": range(10_000, 12_000)}
"""Split -> the ids of its rows."""

INSTRUCTIONS = """\
# Task
The user's query contains exactly one term of the list below.
Go through the lines of that term from top to bottom:
1. Call get_synonym_value for each synonym listed for the term, one call at a time, in the order of the list.
2. Once you have every value, call extract_synonym_values with all of them, in that same order.
3. Then answer the user in one sentence.
Never look up the term itself, and leave the lines of all other terms alone.

# Example with made-up values
The query is "This soup is too salty", and the list gives for 'Salty' first 'Briny' and, further down, 'Saline'.
You look up 'Briny' (say, 5), then 'Saline' (say, 9), submit [5, 9], and answer "You could also call it briny."

# Available synonyms
"""

EXAMPLES = (
    ("Hot", "Why is it so hot in here?", 2),
    ("Journey", "Tell me about your journey.", 1),
    ("Fix", "Could you fix my bicycle before Sunday, please?", 3),
    ("Quiet", "The library is quiet in the morning, and I like that.", 4),
    ("Gift", "what would be a nice gift for my aunt?", 2),
)
"""Term, query and number of synonyms of the example rows: written by hand, for people read them first."""

TEMPLATES = {
    "adjective": (
        "Is it supposed to be this {word}?",
        "Why is it so {word} all of a sudden?",
        "How {word} does it have to be before anyone complains?",
        "Nobody warned me that it would be so {word}.",
        "I did not expect it to look so {word}.",
        "Please give me other ways to say {word}.",
        "What could I write instead of {word}?",
        "My teacher underlined the word {word} in my essay.",
        "It seems rather {word} compared with yesterday.",
        "The last one was not nearly as {word} as this.",
        "Would you call it {word}, or am I imagining things?",
        "I will say it in one word: {word}.",
        "I have written {word} three times on one page, what now?",
        "Everyone says it is {word}, but nobody says why.",
        "It turned out to be {word}, just as you said.",
        "Does {word} suit the tone of this letter?",
        "Whether it is {word} or not is up to you to judge.",
        "Something about it strikes me as {word}.",
        "I want a livelier word than {word} for my poem.",
        "I always describe it as {word} and would like some variety.",
        "They told us it was {word}. Were they right?",
        "Why would anybody call it {word}?",
        "Sorry, did you just say {word}?",
        "way too {word} for me tbh",
        "{Word} is the first word that came to my mind.",
    ),
    "noun": (
        "I keep thinking about that {word}.",
        "Which {word} do you mean?",
        "Tell me more about the {word} you mentioned.",
        "Was there really no other {word}?",
        "That was not the {word} I had in mind.",
        "Nobody has mentioned the {word} since Monday.",
        "My letter needs another word for {word}.",
        "How would you describe the {word} to someone who was not there?",
        "The {word} came as a surprise to all of us.",
        "There has never been another {word} like this one.",
        "Please say something about the {word}, but without that word.",
        "One {word} is enough for today, thank you.",
        "We will all remember the {word}.",
        "Every {word} is different, so why treat them alike?",
        "Is this the same {word} as before?",
        "Somebody should have told me about the {word}.",
        "My essay says {word} in every sentence, what can I do?",
        "Who wrote about the {word} in the newspaper?",
        "And the {word}? I forgot to ask.",
        "so what's up with the {word}?",
        "The poem is about some {word} or other.",
        "I have been warned about this {word} twice already.",
        "{Word} would be my guess, but it does not fit the crossword.",
        "They call it the {word} of the century, which seems exaggerated.",
        "What does the word {word} bring to mind?",
        "Do you remember the {word} from last summer?",
    ),
    "verb": (
        "Who is going to {word} it?",
        "Please do not {word} it before I am back.",
        "Why did nobody {word} it?",
        "You may {word} it if you ask nicely.",
        "I would rather {word} it myself.",
        "They promised to {word} it by Friday.",
        "Is there another way to say that they {word} it?",
        "We could {word} it together on Sunday.",
        "She will {word} it sooner or later.",
        "Never {word} it without telling me.",
        "Did you mean to {word} it?",
        "My report says that we {word} it, which sounds clumsy.",
        "What could I write instead of the verb {word}?",
        "Nobody dared to {word} it.",
        "First we {word} it, then we go home.",
        "Must we {word} it now?",
        "I never believed that he would {word} it.",
        "To {word} it or not to {word} it, what would Hamlet do?",
        "ok but why {word} it at all",
        "We should {word} it and see what happens.",
        "Everyone wants to {word} it, but no one knows how.",
        "The instructions tell me to {word} it twice.",
        "I am looking for a fancier verb than {word}.",
        "It would be a pity to {word} it.",
        "Who told you to {word} it?",
        "{Word} it, please, and send me a note afterwards.",
    ),
}
"""Part of speech -> queries in which `{word}` (or `{Word}`, at the start) stands for any term of that part."""

Row = dict[str, Any]  # a line of JSON: whatever the wire format holds
Pair = tuple[str, str]


def value_of(word: str) -> int:
    """
    Give the value of a word: the sum of its character codes, as the tool `get_synonym_value` computes it.
    """
    return sum(map(ord, word))


def read_thesaurus(path: Path) -> dict[str, dict[str, list[str]]]:
    """
    Read part of speech -> term -> synonyms.

    Raises:
        ValueError: A term stands twice, a synonym is a term, or two words of a term (itself included) share a value:
            the right answer could then look like a wrong one.
    """
    thesaurus: dict[str, dict[str, list[str]]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    entries = [entry for terms in thesaurus.values() for entry in terms.items()]
    count_of = Counter(term for term, _ in entries)
    for term, synonyms in entries:
        if count_of[term] > 1 or any(synonym in count_of for synonym in synonyms):
            raise ValueError(f"{path.name}: '{term}' stands under two parts of speech, or a synonym of it is a term")
        if len({value_of(word) for word in [term, *synonyms]}) <= len(synonyms):
            raise ValueError(f"{path.name}: two words of '{term}' have the same value; replace one of them")
    return thesaurus


def deal_queries(rng: random.Random, thesaurus: dict[str, dict[str, list[str]]]) -> list[Pair]:
    """
    Give different (term, query) pairs, in rounds in which each term has its turn once.
    """
    decks = [
        [(term, template.format(word=term.lower(), Word=term)) for template in rng.sample(templates, len(templates))]
        for part, templates in TEMPLATES.items()
        for term in thesaurus[part]
    ]
    rng.shuffle(decks)
    return [pair for turn in zip(*decks, strict=False) for pair in turn]


def list_synonyms(
    rng: random.Random, synonyms_of: dict[str, list[str]], term: str, wanted: int, term_count: int
) -> list[Pair]:
    """
    Give shuffled (term, synonym) pairs: `wanted` of `term`, and 1 to 4 of each of `term_count - 1` other terms.
    """
    pairs = [(term, synonym) for synonym in rng.sample(synonyms_of[term], wanted)]
    for other in rng.sample([other for other in synonyms_of if other != term], term_count - 1):
        pairs += [(other, synonym) for synonym in rng.sample(synonyms_of[other], rng.choice(range(1, 5)))]
    rng.shuffle(pairs)
    return pairs


def make_row(number: int, term: str, query: str, pairs: list[Pair], tools: list[Row]) -> Row:
    """
    Write one task as its row; what is expected follows from the order of the (term, synonym) pairs.
    """
    expected = [synonym for owner, synonym in pairs if owner == term]
    listing = "\n".join(f"'{owner}' has the synonym '{synonym}'" for owner, synonym in pairs)
    return {
        "id": number,
        "responses_create_params": {
            "input": [{"role": "system", "content": INSTRUCTIONS + listing}, {"role": "user", "content": query}],
            "tools": tools,
            "parallel_tool_calls": False,
        },
        "expected_synonyms": expected,
        "expected_synonym_values": [value_of(synonym) for synonym in expected],
        "minefield_label": term,
        "minefield_label_value": value_of(term),
    }


def generate(tools: list[Row]) -> dict[str, list[Row]]:
    """
    Make the rows of every split, with `tools` in each of them.

    Raises:
        ValueError: The word list or the rows break a law; see `read_thesaurus` and `check_laws`.
    """
    thesaurus = read_thesaurus(HERE / "thesaurus.yaml")
    synonyms_of = {term: synonyms for terms in thesaurus.values() for term, synonyms in terms.items()}
    rng = random.Random(SEED)
    asked = [(term, query, wanted, 8) for term, query, wanted in EXAMPLES]
    for term, query in deal_queries(rng, thesaurus):
        asked.append((term, query, rng.choice(range(1, 5)), rng.choice(range(6, 11))))
    places = [(split, number) for split, numbers in SPLITS.items() for number in numbers]
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for (split, number), (term, query, wanted, term_count) in zip(places, asked, strict=False):
        pairs = list_synonyms(rng, synonyms_of, term, wanted, term_count)
        splits[split].append(make_row(number, term, query, pairs, tools))
    check_laws(splits, terms=list(synonyms_of))
    return splits


def check_laws(splits: dict[str, list[Row]], terms: list[str]) -> None:
    """
    Make sure that the splits share no query and that no answer can be guessed.

    Raises:
        ValueError: A split is too short, a query occurs twice or does not name exactly one term, a minefield is
            among the expected values, or one list of expected values is too frequent in train.
    """
    seen: set[str] = set()
    for row in (row for rows in splits.values() for row in rows):
        query = row["responses_create_params"]["input"][1]["content"]
        words = re.findall(r"[a-z]+", query.lower())
        if query in seen:
            raise ValueError(f"row {row['id']}: the query occurs twice: {query!r}")
        if (named := [term for term in terms if term.lower() in words]) != [row["minefield_label"]]:
            raise ValueError(f"row {row['id']}: the query must name '{row['minefield_label']}' only, not {named}")
        if row["minefield_label_value"] in row["expected_synonym_values"]:
            raise ValueError(f"row {row['id']}: the minefield's value is among the expected values")
        seen.add(query)
    if short := [split for split, numbers in SPLITS.items() if len(splits[split]) != len(numbers)]:
        raise ValueError(f"too few queries for {short}: add terms or templates")
    answers = Counter(str(row["expected_synonym_values"]) for row in splits["train"])
    answer, count = answers.most_common(1)[0]
    if count > MAX_SHARE * len(splits["train"]):
        raise ValueError(f"{count} rows of train expect {answer}, more than {MAX_SHARE:.0%}")


def main() -> int:
    """
    Write the files, or with `--check` compare them; return the exit code.
    """
    parser = argparse.ArgumentParser(description="Write the data of example_multi_step.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the files differ")
    is_check = parser.parse_args().check

    from gym_plugin_example_multi_step.environment import ExampleMultiStep

    stale: list[str] = []
    for split, rows in generate(ExampleMultiStep.tool_schemas()).items():
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows]
        content, path = "".join(lines).encode(), DATA / f"{split}.jsonl"
        if not is_check:
            DATA.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            print(f"{path}: {len(rows)} rows, {len(content)} bytes", file=sys.stderr)
        elif not path.is_file() or path.read_bytes() != content:
            stale.append(str(path))
    if stale:
        print(f"not what generate_data.py would write: {', '.join(stale)}", file=sys.stderr)
        print("  try: python generate_data.py, and commit what it writes", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
