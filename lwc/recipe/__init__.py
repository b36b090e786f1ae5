"""The recipe schema: frozen pydantic models, unknown keys refused. Imports no torch."""

from lwc.recipe.base import *
from lwc.recipe.blocks import *
from lwc.recipe.data import *
from lwc.recipe.labels import *
from lwc.recipe.model import *
from lwc.recipe.recipe import *
from lwc.recipe.serving import *
from lwc.recipe.task import *
