//! IP address → place, network and labels.
