"""SCORERS: every method, one row each. A new one is a module, a config class in the recipe, and a row here."""

from __future__ import annotations

from lwc.importance.ablation import ablation
from lwc.importance.angular_distance import angular_distance
from lwc.importance.block_influence import block_influence
from lwc.importance.conductance import conductance
from lwc.importance.fisher import fisher
from lwc.importance.llama_profile import llama_profile
from lwc.importance.mutual_information import mutual_information
from lwc.importance.shap import shap
from lwc.importance.taylor import taylor
from lwc.importance.types import Scorer

SCORERS: dict[str, Scorer] = {
    "block_influence": block_influence,
    "fisher": fisher,
    "taylor": taylor,
    "ablation": ablation,
    "angular_distance": angular_distance,
    "mutual_information": mutual_information,
    "conductance": conductance,
    "shap": shap,
    "llama_profile": llama_profile,
}
