"""The search: Optuna's multi-objective sampler over features and moments, kept on disk after each trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from models.explore.costs import Costs
from models.explore.task import Moment

TRIALS = "trials.log"
_MOMENT = "moment"

Evaluate = Callable[[Moment, list[int]], tuple[float, Costs]]
"""Quality and costs of some candidates at a moment."""


@dataclass(frozen=True)
class Choice:
    """A choice that was tried."""

    moment: Moment
    candidates: tuple[int, ...]
    quality: float
    costs: Costs


def search(
    folder: Path,
    candidates: int,
    moments: Sequence[Moment],
    evaluate: Evaluate,
    first: Sequence[tuple[Moment, tuple[int, ...]]],
    trials: int,
    smaller_is_better: bool,
    on_trial: Callable[[int, int], None],
    stop: Callable[[], bool],
) -> list[Choice]:
    """Try choices until there are ``trials``, those of former runs in ``folder`` counted, and return all.

    ``first`` are tried before the sampler chooses.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / TRIALS)))
    directions = ["minimize" if smaller_is_better else "maximize", *["minimize"] * len(Costs.__annotations__)]
    by_name = {str(moment): moment for moment in moments}

    def choice(params: dict[str, Any]) -> tuple[Moment, tuple[int, ...]]:
        return by_name[params[_MOMENT]], tuple(i for i in range(candidates) if params[f"feature_{i}"])

    done = _finished(storage)
    # Trials differ after a resumption, as the sampler would repeat those that it began with.
    sampler = optuna.samplers.TPESampler(seed=len(done), n_startup_trials=max(10, len(first)))
    study = optuna.create_study(
        storage=storage, study_name="explore", directions=directions, load_if_exists=True, sampler=sampler
    )
    if not study.trials:
        for moment, some in first:
            study.enqueue_trial(
                {_MOMENT: str(moment), **{f"feature_{i}": i in some for i in range(candidates)}}
            )
    known: dict[tuple[Moment, tuple[int, ...]], list[float]] = {choice(t.params): t.values for t in done}

    def objective(trial: optuna.Trial) -> list[float]:
        trial.suggest_categorical(_MOMENT, list(by_name))
        for i in range(candidates):
            trial.suggest_categorical(f"feature_{i}", [False, True])
        moment, some = choice(trial.params)
        if (moment, some) not in known:
            quality, costs = evaluate(moment, list(some))
            known[moment, some] = [quality, *astuple(costs)]
        return known[moment, some]

    for number in range(len(done), trials):
        if stop():
            break
        study.optimize(objective, n_trials=1)
        on_trial(number + 1, trials)
    found = [choice(t.params) for t in _finished(storage)]
    return [Choice(*what, known[what][0], Costs(*known[what][1:])) for what in dict.fromkeys(found)]


def _finished(storage: Any) -> list[Any]:
    import optuna

    if "explore" not in [study.study_name for study in storage.get_all_studies()]:
        return []
    study = storage.get_study_id_from_name("explore")
    return storage.get_all_trials(study, states=(optuna.trial.TrialState.COMPLETE,))
