"""A process that exports a run's model, and may be killed in the middle of it."""

import os

import obliviate as ob
from tests.kill_child import arm
from tests.models import images, recipe


def export(folder, place, kill):
    """Export, unless it is killed first; see `arm`."""
    run = ob.load(folder, recipe(), images(18))
    arm(kill)
    run.export(place)
    os._exit(0)
