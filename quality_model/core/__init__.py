"""What every wing uses: images, engines, models, storage, processes and jobs."""
