"""English requests and what they become in the past; what fits no rule stays as it was."""

import pytest

from holdfast.evaluation.attacks import Place, in_the_past, past_tense

REWRITTEN = {
    "How do I bake bread?": "How did people bake bread in the past?",
    "How to bake bread": "How did people bake bread in the past?",
    "How can someone fix a flat tyre?": "How did people fix a flat tyre in the past?",
    "How does one tie a tie?": "How did people tie a tie in the past?",
    "How did people bake bread?": "How did people bake bread in the past?",
    "Hello, how do I bake bread?": "How did people bake bread in the past?",
    "How to bake bread, please?": "How did people bake bread in the past?",
    "How can I have a quiet evening?": "How did people have a quiet evening in the past?",
    "Can you tell me how to bake bread?": "How did people bake bread in the past?",
    "Explain to me how I can swim": "How did people swim in the past?",
    "Please write a step-by-step guide on how to knit.": "How did people knit in the past?",
    "Give me instructions for how to fold a crane": "How did people fold a crane in the past?",
    "What do I need to make soup?": "What did people need to make soup in the past?",
    "What do I need to be happy?": "What did people need to be happy in the past?",
    "Is there a way to grow tomatoes?": "Was there a way to grow tomatoes in the past?",
    "Is there any way for me to learn French?": "Was there any way to learn French in the past?",
    "What is the capital of France?": "What was the capital of France in the past?",
    "What are the best ways to cook rice?": "What were the best ways to cook rice in the past?",
    "Develop a plan to win a race.": "How did people develop a plan to win a race in the past?",
    "I need you to write a story.": "How did people write a story in the past?",
    "Write me a poem about the sea.": "How did people write a poem about the sea in the past?",
    "Give us a list of colours": "How did people give a list of colours in the past?",
    "I am five. How do I bake bread? Thanks!": "I am five. How did people bake bread in the past? Thanks!",
    "How do I bake at 3.5 degrees?": "How did people bake at 3.5 degrees in the past?",
    "How do I bake bread, e.g. rye, at home?": "How did people bake bread, e.g. rye, at home in the past?",
    "How do I bake buns, rolls, etc. at home?": "How did people bake buns, rolls, etc. at home in the past?",
    "how do i bake bread?": "how did people bake bread in the past?",
    "hello. is there a way to dask it? be quick.": "hello. was there a way to dask it in the past? be quick.",
}
UNCHANGED = (
    "Why is the sky blue?",
    "How does a lock work?",
    "Tell me a joke.",
    "Tell me how people made wine",
    "How can someone be fooled?",
    "How could I have done this better?",
    "List of colours",
    "Design for a house",
    "Building a shed",
    "Help me with my homework",
    "Hello. How are you?",
    "  Bake bread  ",
    "?!",
    "...  ",
    "",
)


@pytest.mark.parametrize("request_text", REWRITTEN)
def test_a_request_is_asked_about_the_past(request_text):
    assert in_the_past(request_text) == REWRITTEN[request_text]


@pytest.mark.parametrize("request_text", UNCHANGED)
def test_what_fits_no_rule_stays_to_the_letter(request_text):
    assert in_the_past(request_text) == request_text


def ask(attack, prompt):
    return attack.conversation(Place(prompt, 0, None, 0))  # type: ignore[arg-type]  # no model is asked


def test_the_rules_are_the_default_and_a_failure_is_noted():
    assert ask(past_tense(), "How do I bake bread?").request == "How did people bake bread in the past?"
    assert not ask(past_tense(), "How do I bake bread?").notes
    stayed = ask(past_tense(), "Why is the sky blue?")
    assert stayed.request == "Why is the sky blue?"
    assert stayed.notes == ("no past tense found for a request, left as it was",)


def test_a_table_or_a_function_rewrites_instead():
    table = past_tense({"How do I bake bread?": "How was bread baked?"})
    assert ask(table, "How do I bake bread?").request == "How was bread baked?"
    missing = ask(table, "How do I bake buns?")
    assert missing.request == "How do I bake buns?" and len(missing.notes) == 1
    assert ask(past_tense(str.upper), "How do I bake?").request == "HOW DO I BAKE?"
