"""The main job: verified backup, fence, real schema sync, proof, and everything put back when that fails."""
