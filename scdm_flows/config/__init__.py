"""What users write down: the campaign files (science) and the settings of this installation (where things live)."""

from scdm_flows.config.campaign import (
    CATEGORIES,
    WINDOW_EV,
    BudgetConfig,
    CampaignConfig,
    GateConfig,
    ObjectiveConfig,
    PhononBudgetConfig,
    ScreenConfig,
    load_config,
    parse_config,
)
from scdm_flows.config.engines import DEFAULT_FORCE_FIELD, ForceFieldEngineConfig, GpawEngineConfig, VaspEngineConfig
from scdm_flows.config.generators import (
    FilesGeneratorConfig,
    PromotedGeneratorConfig,
    ScdmGeneratorConfig,
    SeveralGeneratorConfig,
    UnscdmGeneratorConfig,
)

__all__ = [
    "CATEGORIES",
    "DEFAULT_FORCE_FIELD",
    "WINDOW_EV",
    "BudgetConfig",
    "CampaignConfig",
    "FilesGeneratorConfig",
    "ForceFieldEngineConfig",
    "GateConfig",
    "GpawEngineConfig",
    "ObjectiveConfig",
    "PhononBudgetConfig",
    "PromotedGeneratorConfig",
    "ScdmGeneratorConfig",
    "ScreenConfig",
    "SeveralGeneratorConfig",
    "UnscdmGeneratorConfig",
    "VaspEngineConfig",
    "load_config",
    "parse_config",
]
