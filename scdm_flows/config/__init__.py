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
from scdm_flows.config.stored import as_registered, check_contents, engine_now, executed, executing, stored_config

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
    "as_registered",
    "check_contents",
    "engine_now",
    "executed",
    "executing",
    "load_config",
    "parse_config",
    "stored_config",
]
