// The page of an ensemble: its scores with intervals and subgroups, computed when they are wanted.

import { loadWhenOpened } from "./score_tables.js";

const at = (id) => document.getElementById(id);

loadWhenOpened(at("score-details"), at("score-tables"), "scores");
loadWhenOpened(at("subgroup-details"), at("subgroup-tables"), "subgroups");
loadWhenOpened(at("operating-details"), at("operating-tables"), "operating");
