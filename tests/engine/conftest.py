"""A network to write and describe: the one that exports are tested with."""

from tests.exports.conftest import network, probe

__all__ = ["network", "probe"]
