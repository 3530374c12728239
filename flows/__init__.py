"""What runs when: flows read as tables of contents."""

from quality_model.core.system import settle_home

settle_home()  # Prefect looks for it as soon as it is imported
