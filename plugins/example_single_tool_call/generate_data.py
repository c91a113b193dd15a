"""
Writes the three JSONL files of `example_single_tool_call` from the city names in `cities.txt`.

`python generate_data.py` writes `example`, `validation` and `train` into the plugin's data folder.
`python generate_data.py --check` writes nothing, and exits 1 when those files are not what would be written.
The same `SEED` gives the same bytes on every Python from 3.11 on.
The plugin must be installed: the tools in the rows are the ones its environment class offers.
This file does not judge answers; that is the verifier in `environment.py`.
"""

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATA = HERE / "src" / "gym_plugin_example_single_tool_call" / "data"
SEED = 20_250_612
MAX_SHARE = 0.01
"""The largest part of the train rows that may ask about the same city: a policy that guesses it must not profit."""

SPLITS = {"example": range(5), "validation": range(1_000, 1_200), "train": range(10_000, 12_000)}
"""Split -> the ids of its rows."""

INSTRUCTIONS = (
    "You are a friendly assistant for everyday plans. Look the weather up with your tool before you answer, and keep "
    "the answer to a sentence or two.",
    "You help people decide what to wear and what to do. Never guess the weather: ask the tool about the city that the "
    "user names, then answer briefly.",
    "Answer questions in which the weather matters. Call the weather tool for the city in question first, and then "
    "reply in plain words.",
)

EXAMPLES = (
    ("Oslo", "What is the weather like in Oslo?"),
    ("Nairobi", "Do I need an umbrella in Nairobi today?"),
    ("São Paulo", "going for a run in São Paulo, shorts or long sleeves?"),
    ("Kyoto", "We are showing my parents around Kyoto this afternoon. Temples outdoors, or rather a museum?"),
    ("Wellington", "Please let me know whether it is windy in Wellington at the moment."),
)
"""City and query of the example rows: written by hand, for people read them first."""

TEMPLATES = (
    "What is the weather in {city}?",
    "What is it like outside in {city} right now?",
    "How is the weather in {city} today?",
    "How warm is it in {city}?",
    "How cold does it get in {city} today?",
    "Is it raining in {city}?",
    "Will I get wet if I walk through {city} now?",
    "Do I need an umbrella in {city}?",
    "Is there any snow in {city} today?",
    "Is it sunny in {city} at the moment?",
    "Is it windy in {city}, or can I leave my hat on?",
    "Are there clouds over {city}?",
    "Is {city} foggy this morning?",
    "Is it hotter than usual in {city}?",
    "Could you check the weather in {city} for me?",
    "Please tell me the current temperature in {city}.",
    "Please report the present weather conditions in {city}.",
    "I would be grateful for a short summary of today's weather in {city}.",
    "Kindly advise whether outdoor work in {city} is reasonable today.",
    "For our records, what are the weather conditions in {city} today?",
    "We are holding a reception in a garden in {city} today. Should we put up a tent?",
    "Our delegation lands in {city} this afternoon. Which clothing would you recommend?",
    "What should I wear in {city} today?",
    "Is it T-shirt weather in {city}?",
    "Should I take a coat to {city}?",
    "Are sandals a mistake in {city} today?",
    "Do I need gloves in {city}?",
    "I have one small bag for {city}: jumper or swimsuit?",
    "My daughter walks to school in {city}. Does she need rain boots today?",
    "I forgot my sunglasses at home. Will I miss them in {city}?",
    "Would you pack a scarf for {city}?",
    "Is a light jacket enough for an evening in {city}?",
    "Can we have a picnic in {city} today?",
    "Is it a day for the park or for the cinema in {city}?",
    "Does it make sense to hang the laundry outside in {city}?",
    "I want to cycle to work in {city}. Is that a sensible idea today?",
    "Would you go for a swim in {city} today?",
    "Can the children play outside in {city} this afternoon?",
    "We have a football match in {city} tonight. Will the pitch be dry?",
    "I am thinking of a long walk around {city}. Does the weather play along?",
    "Should we eat on the terrace or inside? We are in {city}.",
    "My flight leaves from {city} in two hours. Should I worry about the weather?",
    "I am painting a fence in {city}. Can I go on today?",
    "Is tonight a night for looking at the stars in {city}?",
    "Should I water my plants in {city}, or does the sky do it for me?",
    "Can I leave the car windows open in {city}?",
    "Is it too hot for the dog in {city}?",
    "My grandmother lives in {city} and never heats. Is it cold there?",
    "Just arrived in {city}. Sunscreen or raincoat?",
    "I am about to leave the hotel in {city}. Anything I should know about the weather?",
    "A friend in {city} keeps complaining about the weather. Is it really that bad?",
    "They say the weather in {city} is lovely today. Is that true?",
    "I bet it is raining in {city} again.",
    "I wonder how the weather in {city} is.",
    "Tell me something about the weather in {city}.",
    "Give me the weather for {city}, in one sentence please.",
    "Weather in {city}, please.",
    "{city}: sun or rain?",
    "{city} weather?",
    "weather {city} today",
    "rain in {city}?",
    "temp in {city} rn",
    "hows the weather in {city}",
    "do i need a jacket in {city} today?",
    "in {city} for the day, what do i put on",
    "going out in {city} tonight, umbrella yes or no?",
    "hey, quick one: is it nice out in {city}?",
    "ok so {city}. cold or not?",
    "is it beach weather in {city} lol",
    "Good morning! How does the sky over {city} look?",
    "Hello, I am meeting someone in {city} for coffee. Can we sit outside?",
    "Thanks for your help earlier. One more thing: what is the weather in {city}?",
)

Row = dict[str, Any]  # a line of JSON: whatever the wire format holds


def read_cities(path: Path) -> list[str]:
    """
    Read the city names, one a line; empty lines and lines that start with `#` do not count.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def deal_queries(rng: random.Random, cities: list[str]) -> list[tuple[str, str]]:
    """
    Give different (city, query) pairs, in rounds in which each city has its turn once.
    """
    decks = [
        [(city, template.format(city=city)) for template in rng.sample(TEMPLATES, len(TEMPLATES))] for city in cities
    ]
    rng.shuffle(decks)
    return [pair for turn in zip(*decks, strict=True) for pair in turn]


def make_row(number: int, instruction: str, city: str, query: str, tools: list[Row]) -> Row:
    """
    Write one task as its row.
    """
    return {
        "id": number,
        "responses_create_params": {
            "input": [{"role": "developer", "content": instruction}, {"role": "user", "content": query}],
            "tools": tools,
            "parallel_tool_calls": False,
        },
        "city": city,
    }


def generate(tools: list[Row]) -> dict[str, list[Row]]:
    """
    Make the rows of every split, with `tools` in each of them.

    Raises:
        ValueError: The rows break a law; see `check_laws`.
    """
    cities = read_cities(HERE / "cities.txt")
    rng = random.Random(SEED)
    asked = [*EXAMPLES, *deal_queries(rng, cities)]
    places = [(split, number) for split, numbers in SPLITS.items() for number in numbers]
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for (split, number), (city, query) in zip(places, asked, strict=False):
        splits[split].append(make_row(number, rng.choice(INSTRUCTIONS), city, query, tools))
    check_laws(splits, cities)
    return splits


def check_laws(splits: dict[str, list[Row]], cities: list[str]) -> None:
    """
    Make sure that the splits share no query and that no answer can be guessed.

    Raises:
        ValueError: A split is too short, a query occurs twice or does not name exactly one city, or one city is
            too frequent in train.
    """
    seen: set[str] = set()
    for row in (row for rows in splits.values() for row in rows):
        query = row["responses_create_params"]["input"][1]["content"]
        if query in seen:
            raise ValueError(f"row {row['id']}: the query occurs twice: {query!r}")
        if (named := [city for city in cities if city in query]) != [row["city"]]:
            raise ValueError(f"row {row['id']}: the query must name '{row['city']}' only, not {named}")
        seen.add(query)
    if short := [split for split, numbers in SPLITS.items() if len(splits[split]) != len(numbers)]:
        raise ValueError(f"too few queries for {short}: add cities or templates")
    city, count = Counter(row["city"] for row in splits["train"]).most_common(1)[0]
    if count > MAX_SHARE * len(splits["train"]):
        raise ValueError(f"{count} rows of train ask about {city}, more than {MAX_SHARE:.0%}")


def main() -> int:
    """
    Write the files, or with `--check` compare them; return the exit code.
    """
    parser = argparse.ArgumentParser(description="Write the data of example_single_tool_call.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the files differ")
    is_check = parser.parse_args().check

    from gym_plugin_example_single_tool_call.environment import ExampleSingleToolCall

    stale: list[str] = []
    for split, rows in generate(ExampleSingleToolCall.tool_schemas()).items():
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
