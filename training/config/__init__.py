"""The configuration of a run: what a section is, the sections there are, and how a file becomes one."""

from ..errors import ConfigError
from .compute import Base, ComputeConfig, ParallelConfig
from .load import load_config, read_yaml, to_yaml
from .schedule import PART_NAMES, PARTS, PairConfig, Part, ScheduleConfig
from .schema import (
    BackboneConfig,
    Config,
    DataConfig,
    MethodOptions,
    OptimizerConfig,
    Pair,
    StageConfig,
    ValidationConfig,
)
from .section import Count, Decay, Positive, Section, Share, Weight, Whole, build
from .watching import AlarmsConfig, PathsConfig, WatchConfig

__all__ = [
    "PART_NAMES",
    "PARTS",
    "AlarmsConfig",
    "BackboneConfig",
    "Base",
    "ComputeConfig",
    "Config",
    "ConfigError",
    "Count",
    "DataConfig",
    "Decay",
    "MethodOptions",
    "OptimizerConfig",
    "Pair",
    "PairConfig",
    "ParallelConfig",
    "Part",
    "PathsConfig",
    "Positive",
    "ScheduleConfig",
    "Section",
    "Share",
    "StageConfig",
    "ValidationConfig",
    "WatchConfig",
    "Weight",
    "Whole",
    "build",
    "load_config",
    "read_yaml",
    "to_yaml",
]
