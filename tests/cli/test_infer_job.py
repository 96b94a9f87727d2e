"""A single job runs on a configuration that was composed to be checked; Hydra composes its own where a flag is set."""

from collections.abc import Callable

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

Run = Callable[..., int]


def test_a_job_gets_the_same_configuration_whoever_composed_it(run: Run) -> None:
    seen: list[tuple[DictConfig, list[str]]] = []

    def job(config: DictConfig) -> int:
        assert OmegaConf.is_struct(config)
        seen.append((config, list(HydraConfig.get().overrides.task)))
        return 3

    keys = ["min_score=0.1", "output=there"]
    assert run("infer", job, *keys) == run("infer", job, *keys, "hydra.verbose=false") == 3
    assert seen[0] == seen[1]
    assert seen[0][0].min_score == 0.1
    assert seen[0][1] == keys


def test_the_command_line_is_forgotten_after_the_job(run: Run) -> None:
    def job(config: DictConfig) -> None:
        assert HydraConfig.initialized()
        raise RuntimeError("worm")

    assert run("infer", job) == 1
    assert not HydraConfig.initialized()
