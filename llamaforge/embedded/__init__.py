"""The demo's store and data, shipped inside the package."""
