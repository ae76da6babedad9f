"""Where tasks run: in this process, or on Dask workers."""
