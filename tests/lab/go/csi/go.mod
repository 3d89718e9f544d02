// The root of the module; what is built stands in one file for each program.
module tranship.io/lab/csi
