from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from mbv2kit.errors import UserError
from mbv2kit.training.model import model_spec

Compose = Callable[..., DictConfig]
Change = Callable[[str], Any]


def test_the_spec_holds_what_the_config_says(tiny: Compose) -> None:
    overrides = ("normalisation.mean=[1,2,3]", "normalisation.std=[4,5,6]", "input.resize=letterbox")
    config: Any = OmegaConf.to_container(tiny(Path("unused"), *overrides, task="detection"), resolve=True)
    spec = model_spec(config, {"detection": ("cat", "dog")}, {"run": "x"})
    assert (spec.mean, spec.std, spec.origin) == ((1, 2, 3), (4, 5, 6), {"run": "x"})
    assert spec.class_names == {"detection": ("cat", "dog")}
    assert spec.heads == {"detection": config["head"]}
    assert (spec.backbone["width"], spec.input.resize) == (0.35, "letterbox")


@pytest.mark.parametrize("override", ["normalisation.std=[1,0,1]", "normalisation.mean=[1,2]"])
def test_a_wrong_normalization_is_told(changed: Change, override: str) -> None:
    with pytest.raises(UserError, match="normalization needs three means and three stds above 0"):
        model_spec(changed(override), {"classification": ("cat",)}, {})
