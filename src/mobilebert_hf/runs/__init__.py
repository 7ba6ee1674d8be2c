"""What runs leave behind: folders, recipes, facts, checkpoints, manifests of exports."""
