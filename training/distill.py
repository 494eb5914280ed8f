"""Train one stage: python training/distill.py --config training/configs/shapes.yaml stage=semantic [key=value ...]"""

import argparse
import sys

import torch

from training.backbones import build_backbone
from training.callbacks import ExponentialAverage, Log
from training.config import ConfigError, load_config, to_yaml
from training.data import build_data
from training.methods import find_method
from training.trainer import Trainer


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a YAML file, such as training/configs/shapes.yaml")
    parser.add_argument("overrides", nargs="*", help="stage=NAME and dotted overrides, such as data.batch_size=8")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        stage = config.selected()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else torch.device(config.device)
        data = build_data(config.data, config.seed)
        method = find_method(stage.method)(config, stage, build_backbone(config.backbone), data, device)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    callbacks = [Log(config.log_every)]
    if stage.ema_decay is not None:
        callbacks.append(ExponentialAverage(stage.ema_decay))
    trainer = Trainer(config, method, callbacks)
    trainer.folder.mkdir(parents=True, exist_ok=True)
    (trainer.folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    trainer.run()


if __name__ == "__main__":
    main()
