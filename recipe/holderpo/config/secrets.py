"""Keys and passwords that somebody has put into a config."""

import re
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.values import leaves

SECRET_NAME = re.compile(
    r"(?:^|[._])(?:api_?key|secret(?:_?access)?(?:_?key)?|password|passwd|(?:auth|access|hf|hub|bearer)_?token)$",
    re.IGNORECASE,
)


def no_secrets(config: DictConfig) -> Iterator[str]:
    """The config is printed, saved and sent to trackers: it is no place for a key or a password."""
    for key, value in leaves(OmegaConf.to_container(config), lists=True):
        if isinstance(value, str) and value and SECRET_NAME.search(key):
            yield (
                f"{key} is set; allowed is none, since the config is saved and sent to trackers: put it into the environment "
                "variable that its library reads"
            )
