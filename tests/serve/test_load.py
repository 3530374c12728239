"""The load generator of benchmarks/serving.py counts what it does."""

import pytest

from benchmarks.serving import Load, post


def test_a_load_posts_every_image_and_an_answer_without_scores_ends_it(server, images):
    scored = 'quality_model_images_total{error_code="none"}'
    for concurrency, batch in ((2, 1), (2, 3)):
        before = server.metric(scored)
        load = post(server.url, images, concurrency, batch, 0.5, server.process.pid)
        assert server.metric(scored) - before == load.num_images > 0
        assert load.num_images == batch * len(load.seconds)
        assert 0 < max(load.seconds) <= load.elapsed_s and load.cpu_s > 0
    with pytest.raises(RuntimeError, match="not_an_image"):
        post(server.url, [b"<html>"], 1, 1, 0.5, server.process.pid)


def test_the_line_of_a_load_has_percentiles_rate_and_the_ratio_to_the_loop():
    obvious = Load(1, 1, (0.1,) * 10, 1.0, 0.5)
    load = Load(2, 4, (0.01,) * 98 + (0.5,) * 2, 10.0, 4.0)
    assert load.line(obvious) == "| 2 | 4 | 10.0 ms | 500.0 ms | 40.0 | 4.00 | 10.0 | 100 |"
    assert load.with_more(load).num_images == 800
