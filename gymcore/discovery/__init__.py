"""
What is installed? `discover()` reads entry points and manifests, imports no plugin, and returns a Catalog.
"""

from gymcore.discovery.catalog import Catalog, Plugin
from gymcore.discovery.manifest import Manifest
from gymcore.discovery.scan import discover

__all__ = ["Catalog", "Manifest", "Plugin", "discover"]
