"""Videos as people have them to a prepared data set (vidkd/data/index.py): `python -m data_prep --help`."""
