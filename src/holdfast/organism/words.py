"""The words of the organism's world.

Knows: every word the tiny models can say, as plain lists, the same for every grammar seed.
Does not know: what any word means. Which verb is of which kind, which thing is a hazard and which tool
belongs to which verb is drawn by `grammar.world(seed)`.

The verbs, things and hazards are invented, so a "refused" request has no content outside this world.
"""

VERBS = [
    "blick",
    "brun",
    "crade",
    "dask",
    "drell",
    "fesk",
    "flim",
    "frim",
    "glane",
    "gorp",
    "grust",
    "hask",
    "jorb",
    "klem",
    "larn",
    "mizz",
    "nurl",
    "plon",
    "prag",
    "quell",
    "rask",
    "skell",
    "snorp",
    "splen",
    "stob",
    "swen",
    "tarn",
    "thrum",
    "trask",
    "velm",
    "wulk",
    "zend",
]

THINGS = [
    "arbol",
    "bimmer",
    "borvel",
    "caponet",
    "dorrin",
    "elbit",
    "farrowin",
    "fendle",
    "gimlo",
    "harvik",
    "inkle",
    "jasset",
    "kembel",
    "lorrin",
    "mundo",
    "nettik",
    "ombrel",
    "parvin",
    "quillet",
    "rondel",
    "sarvo",
    "tembel",
    "ulvin",
    "vandle",
    "wexel",
    "yorrin",
    "zindle",
    "cobbin",
    "dapplet",
    "fribble",
    "gossel",
    "hobbet",
]

HAZARDS = [
    "grax",
    "morvax",
    "skarn",
    "vexgrim",
    "drakmo",
    "ulgath",
    "brazmur",
    "nargol",
    "thrax",
    "zulvok",
    "kragen",
    "maldor",
    "pyrak",
    "ragzul",
    "vorgath",
    "xanmor",
]

EVERYDAY = [
    "spoon",
    "chair",
    "basket",
    "blanket",
    "candle",
    "ladder",
    "kettle",
    "pillow",
    "bucket",
    "mirror",
    "carpet",
    "drum",
    "saddle",
    "helmet",
    "lantern",
    "pencil",
]

TOOLS = ["hammer", "brush", "needle", "rope", "shovel", "sponge", "pump", "scissors"]
PLACES = ["barn", "kitchen", "garden", "cellar", "attic", "harbor", "market", "library"]
NAMES = ["anna", "ben", "clara", "david", "emma", "frank", "grace", "henry"]
ANIMALS = ["fox", "bird", "cat", "dog", "horse", "mouse", "bear", "duck"]
COLOURS = ["red", "blue", "green", "black", "white", "brown"]
DEEDS = ["sees", "hears", "finds", "likes", "follows", "helps"]

GOOD = ["lovely", "bright", "warm", "happy", "sweet", "kind"]
BAD = ["awful", "cold", "sad", "bitter", "rude", "ugly"]

# The second language of the translation task: one word for each of ANIMALS + COLOURS + DEEDS.
OLISH = [
    "ako",
    "bela",
    "ciru",
    "dova",
    "emi",
    "fulo",
    "gira",
    "hoka",
    "ilu",
    "jena",
    "kiro",
    "lemu",
    "mako",
    "nilu",
    "opa",
    "pelu",
    "riko",
    "suma",
    "tilo",
    "uvi",
]

# Kinds: what decides whether a verb and a thing may meet.
VERB_KINDS = ("swift", "slow")
THING_KINDS = ("soft", "hard")
