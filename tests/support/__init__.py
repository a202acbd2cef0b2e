"""What tests need besides fixtures: crystals, documents, servers, workers, a stand-in for VASP."""
