"""From a candidate to the champion: gates, a person's approval, the registry's aliases."""
