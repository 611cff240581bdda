"""How a stage is run: its blocks on the cluster, with progress, tries and effort."""
