"""Options are scored by their mean log-probability, answers are compared as SQuAD does, the made task is fair."""

from __future__ import annotations

import pytest
import torch

from steepest.lab import finetune
from steepest.lab.finetune import Example


def test_options_are_scored_by_the_mean_log_probability_of_their_own_tokens() -> None:
    encode = {"a": [1], "ab": [1, 2], "acd": [1, 3, 4]}.__getitem__
    given = finetune.rows([Example("a", ("b", "cd"), 1)], encode)
    assert given.ids.tolist() == [[1, 2, 0], [1, 3, 4]] and given.asked.tolist() == [[True, False], [True, True]]
    shares = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1], [0.1, 0.1, 0.1, 0.1, 0.6]])
    logits = shares.log().expand(2, 2, 5)
    told = finetune.scores(logits, given)
    expected = [[shares[0, 2].log(), (shares[0, 3].log() + shares[1, 4].log()) / 2]]
    torch.testing.assert_close(told, torch.tensor(expected))
    assert finetune.accuracy(lambda ids: logits, given) == 0.0
    probability = told.softmax(dim=1)[0, 1]
    torch.testing.assert_close(finetune.objective(lambda ids: logits, given), -probability.log())


@pytest.mark.parametrize(
    ("answer", "right", "same", "share"),
    [
        ("The cat.", "cat", 1.0, 1.0),
        ("a black cat", "the cat", 0.0, 2 / 3),
        ("Paris, France", "paris france", 1.0, 1.0),
        ("dog", "cat", 0.0, 0.0),
        ("", "the", 1.0, 1.0),
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(
    answer: str, right: str, same: float, share: float
) -> None:
    assert finetune.exact(answer, right) == same
    assert finetune.f1(answer, right) == pytest.approx(share)


def test_the_made_task_is_balanced_and_its_test_holds_no_pair_that_training_saw() -> None:
    def pairs(examples: list[Example]) -> set[tuple[str, str]]:
        words = [set(finetune.PIECE.findall(e.prompt)) for e in examples]
        told = finetune.WORDS[0] + finetune.WORDS[1]
        return {(next(iter(w & set(finetune.THINGS))), next(iter(w & set(told)))) for w in words}

    train, test = finetune.sentiment(600, 0), finetune.sentiment(300, 1, held_out=True)
    assert not pairs(train) & pairs(test) and len(pairs(test)) > 20
    assert sum(e.answer for e in train) == 300
    assert all(len(finetune.encoder()(e.prompt + e.options[e.answer])) > 5 for e in train)
    assert finetune.prose(5, 0) == finetune.prose(5, 0) and all(
        finetune.encoder()(t) for t in finetune.prose(50, 0)
    )
