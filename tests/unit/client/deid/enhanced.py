"""A synthetic Enhanced MR image with functional groups, full of identifiers."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def _item(**fields):
    item = Dataset()
    for keyword, value in fields.items():
        setattr(item, keyword, value)
    return item


def _frame(index):
    return _item(
        FrameContentSequence=[
            _item(
                FrameAcquisitionNumber=1,
                FrameReferenceDateTime="20200102030405.678",
                FrameAcquisitionDateTime="20200102030405.678",
                FrameAcquisitionDuration=12.5,
                StackID="1",
                InStackPositionNumber=index + 1,
                DimensionIndexValues=[1, index + 1],
                FrameComments="seen with Dr JONES",
                FrameLabel="JONES",
            )
        ],
        PlanePositionSequence=[_item(ImagePositionPatient=[-100.5, -90.25, 3.3 * index])],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[_item(PixelSpacing=[0.9375, 0.9375], SliceThickness=3.3)],
        FrameVOILUTSequence=[
            _item(WindowCenter=600, WindowWidth=1200, WindowCenterWidthExplanation="JONES")
        ],
        PixelValueTransformationSequence=[
            _item(RescaleIntercept=0, RescaleSlope=1.5 + index, RescaleType="US")
        ],
        MREchoSequence=[_item(EffectiveEchoTime=80.0)],
        MRImageFrameTypeSequence=[
            _item(
                FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
                ComplexImageComponent="MAGNITUDE",
                AcquisitionContrast="T2",
            )
        ],
    )


def enhanced_mr(frames=3, side=8):
    """Return an in-memory Enhanced MR image of ``frames`` frames."""
    ds = _item(
        SOPClassUID=ENHANCED_MR,
        SOPInstanceUID="1.2.3.1",
        StudyInstanceUID="1.2.3.2",
        SeriesInstanceUID="1.2.3.3",
        FrameOfReferenceUID="1.2.3.4",
        PatientID="MRN-8213345",
        PatientName="JONES^MARY",
        Modality="MR",
        Manufacturer="Philips",
        ManufacturerModelName="JONES ONE",
        DeviceSerialNumber="8213345",
        SoftwareVersions="5.7.1",
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        ContentDate="20200102",
        ContentTime="030405",
        AcquisitionDateTime="20200102030405",
        InstanceNumber=1,
        SeriesNumber=1,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        NumberOfFrames=frames,
        Rows=side,
        Columns=side,
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        BurnedInAnnotation="NO",
        DimensionOrganizationSequence=[_item(DimensionOrganizationUID="1.2.3.5")],
        DimensionIndexSequence=[
            _item(
                DimensionOrganizationUID="1.2.3.5",
                DimensionIndexPointer=pointer,
                FunctionalGroupPointer=0x00209111,
                DimensionDescriptionLabel="JONES",
            )
            for pointer in (0x00209056, 0x00209057)
        ],
        SharedFunctionalGroupsSequence=[
            _item(
                MRReceiveCoilSequence=[
                    _item(
                        ReceiveCoilName="JONES COIL",
                        ReceiveCoilManufacturerName="",
                        ReceiveCoilType="HEAD",
                        QuadratureReceiveCoil="NO",
                    )
                ]
            )
        ],
        PerFrameFunctionalGroupsSequence=Sequence([_frame(index) for index in range(frames)]),
    )
    pixels = np.random.default_rng(3).integers(0, 4096, (frames, side, side), np.uint16)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ENHANCED_MR
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds
