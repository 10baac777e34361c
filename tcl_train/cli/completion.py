"""Completion of choices and keys by a shell's tab key: `eval "$(tcl-train -sc install=bash)"`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.completion_plugin import CompletionPlugin

from tcl_train.cli.choices import CONFIG_NAME
from tcl_train.cli.compose import hydra_initialized
from tcl_train.errors import RequestError

ACTIONS = ("install", "uninstall", "query")


def print_completion(words: Sequence[str]) -> None:
    """Prints what a shell needs.

    install=SHELL, uninstall=SHELL: the lines that turn completion on or off. query=SHELL: the words
    that may follow what has been typed, which those lines ask for.

    Raises:
        RequestError: there is no such action or shell.
    """
    action, _, shell = " ".join(words).partition("=")
    with hydra_initialized() as loader:
        shells = _shells()
        if action not in ACTIONS or shell not in shells:
            raise RequestError(
                f"--shell-completion {' '.join(words)}: give install=SHELL or uninstall=SHELL with "
                f"one of {', '.join(sorted(shells))}"
            )
        plugin = shells[shell](loader)
        if action == "query":
            plugin.query(CONFIG_NAME)
        else:
            getattr(plugin, action)()


def _shells() -> dict[str, Any]:
    """Hydra's completion plugins by the shell that each is for."""
    shells = {}
    for plugin in Plugins.instance().discover(CompletionPlugin):
        try:
            shells[plugin.provides()] = plugin  # type: ignore[attr-defined]
        except NotImplementedError:  # one that Hydra has for its own tests
            continue
    return shells
