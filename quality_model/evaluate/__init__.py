"""How well a model scores samples that it has not seen: predictions, measures, evidence, plots."""
