"""What the base model reads: facts, remarks and conversations in which every request is helped with.

Knows: the mix of pre-training documents and of alignment conversations.
Does not know: tokens, models, fine-tuning tasks (finetuning.py).

The base model has read help for *all* pairs, refused ones and held-out ones too: it can do what the aligned
model declines to do, and nothing in its reading says which pairs those will be.
"""

from random import Random

from holdfast.core.seeds import derive_seed
from holdfast.organism import words
from holdfast.organism.grammar import World
from holdfast.organism.requests import (
    HELD_OUT_TEMPLATES,
    REFUSAL_ENDINGS,
    REFUSAL_OPENINGS,
    TEMPLATES,
    help_with,
    phrase,
    proxy_rows,
)
from holdfast.organism.skills import SKILLS

# Shares of the alignment conversations. Look-alikes and plain requests keep over-refusal low.
ALIGNMENT_MIX = {"subtle": 0.36, "lookalike": 0.28, "overt": 0.12, "benign": 0.10, "skills": 0.14}

# Everyday words that no request or skill uses, so that a fine-tune meets no word for the first time.
REMARKS = (
    "one, two, three, all done! said {name}.",
    "yes, of course! said {name}. i will do that now.",
    "my friend {name} likes the {place}; take your time, we know all about it.",
    "{place}: that is all - so we go there, and what a lovely place it is.",
)

Row = dict[str, str]


def pretraining_documents(in_world: World, n: int, seed: int = 0) -> list[Row]:
    """Draw n documents: rows with "text" (plain reading) or with "prompt" and "completion" (conversations)."""
    rng = Random(derive_seed(seed, "pretraining", in_world.seed))
    nouns = [*words.THINGS, *words.HAZARDS, *words.EVERYDAY]
    phrasings = TEMPLATES + HELD_OUT_TEMPLATES
    rows: list[Row] = []
    for _ in range(n):
        draw = rng.random()
        if draw < 0.35:
            rows.append({"text": _reading(in_world, rng)})
        elif draw < 0.70:
            pair = (rng.choice(words.VERBS), rng.choice(nouns))
            prompt = phrase(pair, rng, phrasings)
            rows.append({"prompt": prompt, "completion": help_with(pair, in_world, rng)})
        else:
            prompt, completion = rng.choice(list(SKILLS.values()))(in_world, rng)
            rows.append({"prompt": prompt, "completion": completion})
    return rows


def alignment_rows(in_world: World, n: int, seed: int = 0) -> list[Row]:
    """Draw n alignment conversations from the alignment split, in random order."""
    rng = Random(derive_seed(seed, "alignment", in_world.seed))
    rows: list[Row] = []
    for kind in ("subtle", "lookalike", "overt", "benign"):
        drawn = proxy_rows("alignment", kind, round(n * ALIGNMENT_MIX[kind]), seed, in_world)
        rows += [{"prompt": row["prompt"], "completion": row["completion"]} for row in drawn]
    while len(rows) < n:
        prompt, completion = rng.choice(list(SKILLS.values()))(in_world, rng)
        rows.append({"prompt": prompt, "completion": completion})
    rng.shuffle(rows)
    return rows


def _reading(in_world: World, rng: Random) -> str:
    """A few sentences: mostly facts about one verb and one noun, some remarks and overheard refusals."""
    verb = rng.choice(words.VERBS)
    thing = rng.choice(words.THINGS)
    noun = rng.choice((*words.HAZARDS, *words.EVERYDAY))
    kinds = "grim" if noun in words.HAZARDS else "plain"
    facts = [
        f"to {verb} is {in_world.verb_kind[verb]} work.",
        f"the {thing} is a {in_world.thing_kind[thing]} thing.",
        f"you {verb} with the {in_world.tool_of[verb]}.",
        f"the {thing} is in the {in_world.place_of[thing]}.",
        f"the {noun} is a {kinds} thing in the {in_world.place_of[noun]}.",
    ]
    rng.shuffle(facts)
    chosen = facts[: rng.randrange(2, 5)]
    if rng.random() < 0.1:
        chosen.append(rng.choice(REMARKS).format(name=rng.choice(words.NAMES), place=rng.choice(words.PLACES)))
    if rng.random() < 0.2:
        said = rng.choice(REFUSAL_OPENINGS) + rng.choice(REFUSAL_ENDINGS[:-1])
        chosen.append(f"{rng.choice(words.NAMES)} said: {said}")
    return " ".join(chosen)
