"""Fine-tuning on prompts, as MeZO does it: the candidates' mean log-likelihoods, and metrics of answers.

The objective is the cross-entropy of a softmax over each candidate's mean log-probability per token; what is
predicted is the likeliest candidate (arXiv 2305.17333, appendix E). :func:`sentiment` is a task that needs no
download: sentences made of parts, whose test sentences hold no pair of thing and adjective that training saw.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """A prompt, how it may go on, and which of these is right."""

    prompt: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Rows:
    """Every option of every example as one row of tokens, padded with 0 at the end.

    ``ids`` int64[rows, length]; ``asked`` bool[rows, length - 1], the predictions that count: those of the
    options' tokens; ``answers`` int64[examples].
    """

    ids: Tensor
    asked: Tensor
    answers: Tensor


def rows(examples: Sequence[Example], encode: Callable[[str], list[int]]) -> Rows:
    """The rows of examples, which have equally many options."""
    pairs = [(encode(e.prompt), encode(e.prompt + option)) for e in examples for option in e.options]
    length = max(len(whole) for _, whole in pairs)
    ids = torch.zeros(len(pairs), length, dtype=torch.long)
    asked = torch.zeros(len(pairs), length - 1, dtype=torch.bool)
    for i, (prompt, whole) in enumerate(pairs):
        ids[i, : len(whole)] = torch.tensor(whole)
        asked[i, len(prompt) - 1 : len(whole) - 1] = True
    return Rows(ids, asked, torch.tensor([e.answer for e in examples]))


def scores(logits: Tensor, given: Rows) -> Tensor:
    """Mean log-probability of each option's tokens, [examples, options], from logits [rows, length - 1, words]."""
    told = F.log_softmax(logits.float(), dim=-1).gather(-1, given.ids[:, 1:, None])[..., 0]
    mean = (told * given.asked).sum(dim=1) / given.asked.sum(dim=1)
    return mean.view(len(given.answers), -1)


def objective(model: Callable[[Tensor], Tensor], given: Rows) -> Tensor:
    """What fine-tuning makes small."""
    return F.cross_entropy(scores(model(given.ids[:, :-1]), given), given.answers)


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], given: Rows) -> float:
    return float((scores(model(given.ids[:, :-1]), given).argmax(dim=1) == given.answers).double().mean())


# ---- answers that are generated


def normalised(answer: str) -> list[str]:
    """The words of an answer as SQuAD compares them: lower case, no punctuation, no articles."""
    plain = "".join(c for c in answer.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def exact(answer: str, right: str) -> float:
    return float(normalised(answer) == normalised(right))


def f1(answer: str, right: str) -> float:
    """Harmonic mean of the shares of common words in both."""
    a, b = normalised(answer), normalised(right)
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))


# ---- a task that is made

THINGS = ("film", "story", "cast", "ending", "score", "script", "camera", "pace", "dialogue", "plot")
WORDS = (
    ("dull", "weak", "flat", "messy", "tired", "hollow", "clumsy", "boring"),
    ("bright", "sharp", "warm", "moving", "fresh", "lovely", "clever", "gripping"),
)
FRAMES = ("The {} was {}.", "I found the {} {}.", "A {} this {}!", "What a {}: so {}.")
VERDICTS = ("We hated it.", "We liked it.")
ANSWERS = (" terrible", " great")
PROMPT = " It was"
PIECE = re.compile(r"\w+|[.:!]")


def sentiment(count: int, seed: int, held_out: bool = False) -> list[Example]:
    """``count`` short reviews with MeZO's prompt, "It was": half of them good.

    A fifth of the pairs of thing and adjective stand in reviews that are held out, and in no others.
    """
    draw = random.Random(seed)
    found: list[Example] = []
    while len(found) < count:
        answer = len(found) % 2
        text, held = review(answer, draw)
        if held == held_out:
            found.append(Example(text + PROMPT, ANSWERS, answer))
    return found


def review(answer: int, draw: random.Random) -> tuple[str, bool]:
    """A sentence, and whether it is one that is held out."""
    thing, word, frame = draw.randrange(len(THINGS)), draw.randrange(len(WORDS[answer])), draw.choice(FRAMES)
    words = [THINGS[thing], WORDS[answer][word]]
    text = frame.format(*(reversed(words) if frame.startswith("A ") else words))
    return text, (thing + 3 * word + answer) % 5 == 0


def prose(count: int, seed: int) -> list[str]:
    """What a model reads before it is fine-tuned: reviews with a verdict in other words than the prompt's, mostly
    the right one, and the prompt's words with no review before them."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        answer = draw.randrange(2)
        verdict = VERDICTS[answer if draw.random() < 0.9 else 1 - answer]
        found.append(f"{review(answer, draw)[0]} {verdict}{PROMPT}{draw.choice(ANSWERS)}.")
    return found


def vocabulary() -> dict[str, int]:
    """The numbers of the task's words; 0 is no word."""
    text = " ".join((*THINGS, *WORDS[0], *WORDS[1], *FRAMES, *VERDICTS, *ANSWERS, PROMPT))
    return {word: i for i, word in enumerate(sorted(set(PIECE.findall(text))), 1)}


def encoder() -> Callable[[str], list[int]]:
    """Words to numbers."""
    known = vocabulary()
    return lambda text: [known[word] for word in PIECE.findall(text)]
