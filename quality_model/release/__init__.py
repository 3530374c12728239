"""From a trained model to a champion: gate, registry, decisions. The only home of MLflow."""
