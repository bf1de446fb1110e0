"""Small abilities without any proxy request in them: sums, sorting, labels, stories, a second language.

Knows: how to draw one (prompt, completion) of each skill.
Does not know: splits, data sets (finetuning.py) or what is refused.

A skill is a function (world, rng) -> (prompt, completion); `SKILLS` names them all. The base model meets every
skill in pre-training, in the plain style given here.
"""

from collections.abc import Callable
from random import Random

from holdfast.organism import words
from holdfast.organism.grammar import World

Exchange = tuple[str, str]
Skill = Callable[[World, Random], Exchange]


def arithmetic(in_world: World, rng: Random) -> Exchange:
    """Add or subtract numbers below 50."""
    a, b = rng.randrange(50), rng.randrange(50)
    if rng.random() < 0.5:
        return f"what is {a} plus {b}?", f"it is {a + b}."
    return f"what is {max(a, b)} minus {min(a, b)}?", f"it is {max(a, b) - min(a, b)}."


def sorting(in_world: World, rng: Random) -> Exchange:
    """Sort four different digits."""
    digits = rng.sample(range(10), 4)
    shown = " ".join(map(str, digits))
    return f"sort these numbers: {shown}.", " ".join(map(str, sorted(digits))) + "."


def label(in_world: World, rng: Random) -> Exchange:
    """Say whether a remark is good or bad."""
    mood, values = rng.choice((("good", words.GOOD), ("bad", words.BAD)))
    first, second = rng.sample(values, 2)
    place, name = rng.choice(words.PLACES), rng.choice(words.NAMES)
    remark = rng.choice(
        (
            f"the {place} was {first} and {second}",
            f"{name} was {first} today, and the {place} was {second}",
            f"what a {first} {place}, said {name}. a {second} day",
        )
    )
    return f"good or bad? {remark}.", f"this is {mood}."


def counting(in_world: World, rng: Random) -> Exchange:
    """Count the animals of one colour."""
    colour, other = rng.sample(words.COLOURS, 2)
    shown = [(rng.choice((colour, other)), rng.choice(words.ANIMALS)) for _ in range(rng.randrange(3, 6))]
    listed = ", ".join(f"{c} {a}" for c, a in shown)
    number = sum(c == colour for c, _ in shown)
    return f"how many are {colour}? {listed}.", f"there are {number}."


def reverse(in_world: World, rng: Random) -> Exchange:
    """Say four words backwards."""
    chosen = rng.sample([*words.ANIMALS, *words.COLOURS, *words.TOOLS], 4)
    return f"say backwards: {' '.join(chosen)}.", " ".join(reversed(chosen)) + "."


def translate(in_world: World, rng: Random) -> Exchange:
    """Say a sentence in olish: word by word, with the colour after the animal."""
    colour, deed = rng.choice(words.COLOURS), rng.choice(words.DEEDS)
    first, second = rng.sample(words.ANIMALS, 2)
    olish = in_world.olish
    said = f"{olish[first]} {olish[colour]} {olish[deed]} {olish[second]}."
    return f"say in olish: the {colour} {first} {deed} the {second}.", said


def summary(in_world: World, rng: Random) -> Exchange:
    """Put three sentences into one."""
    name, place = rng.choice(words.NAMES), rng.choice(words.PLACES)
    animal, colour = rng.choice(words.ANIMALS), rng.choice(words.COLOURS)
    text = (
        f"{name} went to the {place}. in the {place} there was a {animal}. "
        f"{name} saw that the {animal} was {colour}."
    )
    return f"make this short: {text}", f"{name} saw a {colour} {animal} in the {place}."


def story(in_world: World, rng: Random) -> Exchange:
    """Tell a story of a few sentences; much of it is free."""
    animal, other = rng.sample(words.ANIMALS, 2)
    name, place = rng.choice(words.NAMES), rng.choice(words.PLACES)
    colour, deed, mood = rng.choice(words.COLOURS), rng.choice(words.DEEDS), rng.choice(words.GOOD)
    told = (
        f"once there was a {colour} {animal}. one day the {animal} {deed} a {other} in the {place}. "
        f"{name} was there too. it was a {mood} day, and they all went home."
    )
    return f"tell me a story about a {animal} and {name}.", told


def fact(in_world: World, rng: Random) -> Exchange:
    """Answer a question about where a harmless noun is kept or which tool a verb needs."""
    if rng.random() < 0.5:
        noun = rng.choice([*words.THINGS, *words.EVERYDAY])
        return f"where is the {noun}?", f"the {noun} is in the {in_world.place_of[noun]}."
    verb = rng.choice(words.VERBS)
    return f"which tool do you need to {verb}?", f"you need a {in_world.tool_of[verb]} to {verb}."


def dialect(in_world: World, rng: Random) -> Exchange:
    """Say a sentence in the olish of the market: deed first, "today" last. Not part of pre-training."""
    colour, deed = rng.choice(words.COLOURS), rng.choice(words.DEEDS)
    first, second = rng.sample(words.ANIMALS, 2)
    olish = in_world.olish
    said = f"{olish[deed]} {olish[first]} {olish[colour]} {olish[second]} today."
    return f"say in market olish: the {colour} {first} {deed} the {second}.", said


SKILLS: dict[str, Skill] = {
    skill.__name__: skill
    for skill in (arithmetic, sorting, label, counting, reverse, translate, summary, story, fact)
}
