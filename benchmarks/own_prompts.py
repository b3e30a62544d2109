"""Prompts made from templates of this project's own, for training a predictor that may be shipped.

Short tasks of many kinds, because the public prompt sets under permissive licences are mostly code, role play and
arithmetic. Every (template, topic) pair is drawn at most once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

TOPICS = """bees|the moon|electric cars|coffee|a lighthouse|volcanoes|chess|climate change|sleep|the Roman Empire|jazz
|a lost umbrella|machine learning|gardening|solar panels|the ocean|friendship|cats|black holes|bread baking|marathons
|the printing press|vaccines|public libraries|rain|inflation|dinosaurs|origami|a village market|remote work|honesty
|the human heart|bicycles|glaciers|poetry|robots|a train journey|nutrition|democracy|the violin|winter|photosynthesis
|mountain climbing|a small bakery|recycling|the internet|tea|earthquakes|football|autumn leaves|cryptography|owls
|a birthday party|budgeting|the French Revolution|yoga|penguins|antibiotics|a haunted house|gravity|tourism
|social media|wolves|cheese|the Silk Road|database indexes|ants|kindness|a space station|wind turbines|fractions
|museums|thunderstorms|a family dinner|microplastics|the Great Wall|swimming|time management|whales|user interfaces
|rivers|a young painter|batteries|stress|maps|the stock market|rabbits|a broken clock|water conservation|bridges
|storytelling|a job interview|mushrooms|the periodic table|deserts|dreams|online shopping|elephants""".replace("\n", "")

PLACES = "Japan|Brazil|Kenya|Norway|Egypt|Canada|India|Peru|Greece|Vietnam|Morocco|Iceland|Mexico|Turkey|Ireland|Chile"
WORDS = """bright|ancient|to run|fragile|happy|to improve|enormous|silent|to build|careful|brave|rapid|to explain|honest
|cold|gentle|to argue|famous|difficult|lonely|to reduce|curious|generous|to repair|noisy""".replace("\n", "")
SENTENCES = """The meeting were cancelled because nobody come.|She walked slowly to the old station in the rain.|We is
 going to the museum tomorrow if the weather are good.|I can't believe how good this soup tastes!|The report that was
 written by the new manager was not liked by the team.|He forgot his keys again, and the neighbours had to let him in.
|Their going to loose the game if they dont practise.|The delivery arrived three days late and the box was damaged.
|Prices of wheat rose by four percent last month.|My brother plays the guitar, but he never sings.|The children
 laughed when the dog stole the sandwich.|Despite of the noise, the baby sleeped all night.|This phone is fast, light
 and cheap, yet the battery lasts only half a day.|Please send me the documents until Friday.|The river was so clear
 that we could count the stones.|Nobody told the visitors where the entrance was.|Our teacher give us too many
 homeworks.|The film was long, but I enjoyed every minute of it.|After the storm the village had no power for two
 nights.|I am writing to ask about the room you advertised.""".replace("\n", "")
NUMBERS = (
    "3, 8, 15, 4|12, 7, 30, 21, 9|2, 4, 8, 16|100, 85, 92, 77|5, 5, 10, 40|1.5, 2.5, 6|14, 3, 27, 8, 19|9, 81, 729"
)
LISTS = """apple, hammer, pear, saw, plum|Paris, Rome, Lyon, Milan|dog, sparrow, trout, eagle, cat|red, seven, blue, nine
|iron, oak, copper, pine|guitar, drum, flute, cymbal|rain, snow, desk, hail|shirt, lamp, coat, chair""".replace(
    "\n", ""
)

TEMPLATES: dict[str, str] = {
    TOPICS: """Write a short poem about {}.|Write a haiku about {}.|Explain {} to a ten-year-old.|Explain {} in one
 sentence.|Give three facts about {}.|List five words that you associate with {}.|Write a story about {} in about 200
 words.|Write a one-paragraph summary of what {} means to people.|What are the advantages and disadvantages of {}?
|Write a title for an article about {}.|Suggest a slogan for a campaign about {}.|Write an essay about {}.|Describe {}
 with at least three adjectives.|Name one common misconception about {}.|Write a dialogue between two friends about {}.
|Create a quiz of four questions with answers about {}.|Write a tweet about {}.|What is the history of {}? Answer in
 detail.|Compose an email that invites a colleague to a talk about {}.|Give me a metaphor for {}.|How would you explain
 {} to someone who has never heard of it?|Write a joke about {}.|Is {} important? Answer yes or no, and give one reason.
|Make an outline for a presentation about {}.|Rewrite this as a question: I want to know more about {}.|Brainstorm ten
 ideas for a blog post about {}.|Write the opening line of a novel about {}.|Write a detailed guide for beginners on {}.
|Generate a list of keywords for {}.|Compare {} with something similar, in a table.|Name a book or a film that deals
 with {}.|Describe a picture that shows {}.|Write a letter to a newspaper about {}.|What questions should a researcher ask
 about {}?|Write a speech of two minutes about {}.|Which category does {} belong to: nature, technology, society or
 feelings?|Come up with an analogy that compares {} to a kitchen.|Write a product description that has to do with {}.
|Predict how {} will look fifty years from now.|Write a limerick about {}.""",
    PLACES: """What is the capital of {}?|Name three dishes from {}.|Plan a trip of five days to {}.|What language is spoken
 in {}?|Describe the climate of {} in two sentences.|Which continent is {} on?|List four famous places in {}.|Write a
 postcard from {}.|What should a visitor know about customs in {}?|Summarize the history of {}.""",
    WORDS: """Give a synonym for "{}".|Give an antonym for "{}".|Use "{}" in a sentence.|List four synonyms of "{}".|What does
 "{}" mean?|Translate "{}" into Spanish.|Translate "{}" into French and German.|Write two sentences that contain "{}".
|Which part of speech is "{}"?|Write a rhyming couplet with "{}".""",
    SENTENCES: """Correct the grammar of this sentence.\n\n{}|Rewrite the sentence in the passive voice, if that is
 possible.\n\n{}|Is the tone of this sentence positive, negative or neutral?\n\n{}|Translate to Spanish.\n\n{}|Make this
 sentence shorter.\n\n{}|Make this sentence more formal.\n\n{}|Identify the verb in the sentence.\n\n{}|Turn this into a
 question.\n\n{}|Continue the story in three sentences.\n\n{}|Count the words of this sentence.\n\n{}|What happened
 before this? Imagine it.\n\n{}|Name the subject of the sentence.\n\n{}|Paraphrase the following sentence.\n\n{}|Change
 the sentence to the future tense.\n\n{}""",
    NUMBERS: """Sort these numbers in ascending order: {}|What is the sum of {}?|Find the mean of {}.|What is the largest
 number in this list?\n\n{}|Write a Python function that would turn these numbers into a list of their squares: {}|What
 comes next? {}|How many of these are even? {}""",
    LISTS: """Group these words by category: {}|Which word does not belong with the others? {}|Sort alphabetically: {}|Write
 a sentence that uses all of these words: {}|Add three more items to each category in this list: {}|Write a short story
 with these words: {}""",
}


def own_prompts(count: int, seed: int = 0) -> Iterator[str]:
    """``count`` prompts in random order; ValueError if there are not that many."""
    pairs = [
        template.format(item)
        for items, templates in TEMPLATES.items()
        for template in templates.replace("\n ", " ").replace("\n|", "|").split("|")
        for item in items.split("|")
    ]
    if count > len(pairs):
        raise ValueError(f"count is {count}; there are {len(pairs)} prompts")
    yield from random.Random(seed).sample(pairs, count)
