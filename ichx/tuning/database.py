"""Where Optuna's storage is: `db/tuning.db` in the workspace. Without Optuna, for those who only look whether it is."""

DATABASE = "tuning.db"
